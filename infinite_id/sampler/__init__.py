"""Denoising of the two streams."""
