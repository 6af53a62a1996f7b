"""Networks that score pictures; never the ones that condition them."""
