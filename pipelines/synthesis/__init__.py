"""Data sets of accepted pictures."""
