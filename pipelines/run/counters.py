"""Prometheus metrics through Ray's own metrics API: every node exports them with Ray's.

Ray adds the prefix `ray_`. `cluster/monitoring` has the dashboard and the alerts that read them.
Outside a Ray worker or driver (a test, a laptop's loop, a bare benchmark) nothing is recorded, so
the actors call this module and still know nothing of Ray.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["METRICS", "BusyShare", "count", "count_rejects", "metered", "observe", "set_gauge"]

METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "infinite_id_pictures_total": (
        "Counter",
        "Pictures asked for: status ok or rejected.",
        ("method", "status"),
    ),
    "infinite_id_rejects_total": ("Counter", "Rows refused.", ("stage", "reason")),
    "infinite_id_batch_seconds": ("Histogram", "Seconds of a generated batch.", ("method",)),
    "infinite_id_queue_rows": ("Gauge", "Rows that wait for this stage.", ("stage",)),
    "infinite_id_actor_busy_share": (
        "Gauge",
        "Share of the last minute that an actor worked, 0 to 1.",
        ("stage", "actor"),
    ),
}
"""Kind, description and labels by name (without Ray's prefix)."""

_BATCH_SECONDS = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 180.0]
_WINDOW_SECONDS = 60.0


@functools.cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    kind, description, labels = METRICS[name]
    extra = {"boundaries": _BATCH_SECONDS} if kind == "Histogram" else {}
    return getattr(metrics, kind)(name, description=description, tag_keys=labels, **extra)


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(getattr(ray, "is_initialized", bool)())


def count(name: str, amount: float = 1.0, **labels: str) -> None:
    """Adds to a counter; nothing below or at 0 is added.

    Raises:
        KeyError: not a name of `METRICS`.
    """
    if amount > 0 and _in_ray():
        _metric(name).inc(amount, tags=labels)


def observe(name: str, value: float, **labels: str) -> None:
    """Adds a value to a histogram."""
    if _in_ray():
        _metric(name).observe(value, tags=labels)


def set_gauge(name: str, value: float, **labels: str) -> None:
    """Sets a gauge."""
    if _in_ray():
        _metric(name).set(value, tags=labels)


def count_rejects(stage: str, reasons: Iterable[str]) -> None:
    """Adds refused rows, by their reasons."""
    for reason, number in Counter(reasons).items():
        count("infinite_id_rejects_total", number, stage=stage, reason=reason)


class BusyShare:
    """The share of the last minute in which at least one call was under way.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._seen = clock()
        self._active = 0
        self._spans: deque[tuple[float, float]] = deque()
        self._busy = 0.0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """A call begins."""
        with self._lock:
            self._advance()
            self._active += 1

    def leave(self) -> float:
        """A call ends; returns the share, 0 to 1, over the last minute or since the start."""
        with self._lock:
            now = self._advance()
            self._active -= 1
            oldest = max(self._start, now - _WINDOW_SECONDS)
            while self._spans and self._spans[0][0] < oldest:
                begin, end = self._spans.popleft()
                self._busy -= end - begin
                if end > oldest:
                    self._spans.appendleft((oldest, end))
                    self._busy += end - oldest
            return min(1.0, self._busy / (now - oldest)) if now > oldest else 1.0

    def _advance(self) -> float:
        now = self._clock()
        if self._active and now > self._seen:
            self._spans.append((self._seen, now))
            self._busy += now - self._seen
        self._seen = now
        return now


def metered(stage: str, actor: type) -> type:
    """A subclass of an actor, named as the stage, that reports its busy share after each call."""

    class Metered(actor):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._busy = BusyShare()

        def __call__(self, table: Any) -> Any:
            self._busy.enter()
            try:
                return super().__call__(table)
            finally:
                share = self._busy.leave()
                labels = {"stage": stage, "actor": str(os.getpid())}
                set_gauge("infinite_id_actor_busy_share", share, **labels)

    Metered.__name__ = Metered.__qualname__ = stage
    return Metered
