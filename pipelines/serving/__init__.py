"""The HTTP service's parts; `pipelines.serve` puts them together."""
