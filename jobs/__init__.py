"""Thin command lines over pipelines: the only place that imports MLflow."""
