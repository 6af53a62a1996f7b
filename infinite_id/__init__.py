"""Infinite-ID (ECCV 2024, arXiv 2403.11781): the model, without Ray, MLflow or storage."""
