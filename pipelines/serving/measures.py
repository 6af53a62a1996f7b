"""What the service counts, for Prometheus; on Ray Serve for Ray's own exporter as well.

Every name begins with `infinite_id_service_`. In Ray's exporter `ray_` stands before it, and each
replica gives its part: sums over replicas are the application's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["METRICS", "PREFIX", "Measures"]

PREFIX = "infinite_id_service_"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_PICTURES = (1, 2, 4, 8, 16, 32)

_KINDS: dict[str, Any] = {"Counter": Counter, "Gauge": Gauge, "Histogram": Histogram}

# name -> (kind, what, labels, a histogram's limits)
METRICS: dict[str, tuple[str, str, tuple[str, ...], tuple[float, ...]]] = {
    "requests_total": ("Counter", "Answered requests", ("route", "method", "status"), ()),
    "request_seconds": ("Histogram", "First byte to last byte", ("route",), _SECONDS),
    "rejected_total": ("Counter", "Requests that were refused", ("code",), ()),
    "in_flight": ("Gauge", "Requests that are not answered yet", (), ()),
    "body_bytes": ("Gauge", "Bytes of bodies of requests in flight", (), ()),
    "connections": ("Gauge", "Open connections of this process", (), ()),
    "pictures_total": ("Counter", "Pictures sent", (), ()),
    "unsafe_total": ("Counter", "Pictures that the safety check refused or blurred", (), ()),
    "queue_pictures": ("Gauge", "Pictures that wait for a generator", (), ()),
    "batch_pictures": ("Histogram", "Pictures of one call of a generator", (), _PICTURES),
    "batch_seconds": ("Histogram", "Seconds of one call of a generator", ("method",), _SECONDS),
    "generator_busy_seconds_total": ("Counter", "Seconds in which a generator worked", (), ()),
    "generators_lost_total": ("Counter", "Generators that a GPU's error took out", (), ()),
    "people": ("Gauge", "Embedded people kept", (), ()),
    "people_bytes": ("Gauge", "Bytes of embedded people kept", (), ()),
}


class Measures:
    """The metrics of one process; a registry of its own, so that two can live in one.

    Args:
        ray: tell Ray's exporter as well; only in a replica.
    """

    def __init__(self, ray: bool = False) -> None:
        self._registry = CollectorRegistry()
        self._record: dict[str, Callable[..., None]] = {}
        for name, described in METRICS.items():
            own = _prometheus(self._registry, name, *described)
            self._record[name] = _both(own, _ray(name, *described)) if ray else own

    def record(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Adds to a counter, sets a gauge, or puts a value into a histogram."""
        self._record[name](value, **labels)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


def _prometheus(
    registry: CollectorRegistry,
    name: str,
    kind: str,
    what: str,
    labels: tuple[str, ...],
    limits: tuple[float, ...],
) -> Callable[..., None]:
    more = {"buckets": limits} if kind == "Histogram" else {}
    metric = _KINDS[kind](PREFIX + name, what, labels, registry=registry, **more)
    verb = {"Counter": "inc", "Gauge": "set", "Histogram": "observe"}[kind]

    def record(value: float, **told: str) -> None:
        getattr(metric.labels(**told) if told else metric, verb)(value)

    return record


def _ray(
    name: str, kind: str, what: str, labels: tuple[str, ...], limits: tuple[float, ...]
) -> Callable[..., None]:
    from ray.util import metrics

    full = PREFIX + name
    if kind == "Histogram":
        told: Any = metrics.Histogram(full, what, boundaries=list(limits), tag_keys=labels)
        return lambda value, **tags: told.observe(value, tags)
    if kind == "Gauge":
        gauge = metrics.Gauge(full, what, tag_keys=labels)
        return lambda value, **tags: gauge.set(value, tags)
    counter = metrics.Counter(full, what, tag_keys=labels)
    return lambda value, **tags: counter.inc(value, tags)


def _both(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    def record(value: float, **labels: str) -> None:
        first(value, **labels)
        second(value, **labels)

    return record
