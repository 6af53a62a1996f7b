"""Metrics and reports: no Ray, no MLflow."""
