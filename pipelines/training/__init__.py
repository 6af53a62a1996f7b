"""Adapters trained on a cluster."""
