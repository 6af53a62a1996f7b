"""Benchmarks: scenarios and requirements as data, run by `python -m benchmarks.run NAME`."""
