"""Counters for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, generate_latest

__all__ = ["Measures"]


class Measures:
    """Of one application; a registry of its own, so that two can live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.pictures = Counter("pictures", "Pictures made", registry=self._registry)
        self.errors = Counter("errors", "Answers by code", ["code"], registry=self._registry)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
