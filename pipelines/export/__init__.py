"""A run's pictures as a data set in common formats."""
