"""The small model that is shipped with the package."""
