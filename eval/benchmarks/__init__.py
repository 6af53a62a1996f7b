"""Benchmarks of the field: their published layouts read, their columns computed."""
