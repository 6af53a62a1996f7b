"""The one thread of face and scoring networks, and the time that a request has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from pipelines.serving.errors import ServiceError, let_go, overloaded

__all__ = ["Deadline", "Worker"]

T = TypeVar("T")


def _outcome(what: Callable[..., T], *args: Any) -> T:
    try:
        return what(*args)
    except ServiceError as error:
        let_go(error)
        raise


class Deadline:
    """When a request is given up, from its acceptance to its last byte."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, not below 0."""
        return max(0.0, self._end - time.monotonic())

    def error(self) -> ServiceError:
        """The 504."""
        return ServiceError(504, "deadline", f"No answer within {self._seconds:g} seconds.")


class Worker:
    """Runs one thing after the other in a thread; the event loop stays free.

    Args:
        most: things that wait or run; more are refused.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._lock = Lock()
        # The networks are for one thread at a time.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="faces-and-scores")

    def check(self) -> None:
        """Raises a ServiceError, 503, where too much waits."""
        with self._lock:
            if self._held >= self._most:
                raise overloaded("photos and scores")

    async def run(self, deadline: Deadline, what: Callable[..., T], *args: Any) -> T:
        """The result of `what(*args)`; `check` first where the caller may be refused.

        Raises:
            ServiceError: 504, not done in time; what has not begun is dropped.
        """
        with self._lock:
            self._held += 1
        future = self._pool.submit(_outcome, what, *args)
        future.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), deadline.left)
        except TimeoutError:
            raise deadline.error() from None
        finally:
            # It holds the error, whose frames hold it.
            del future

    def _done(self, _: Future) -> None:
        with self._lock:
            self._held -= 1

    def close(self) -> None:
        """Finishes what waits."""
        self._pool.shutdown()
