"""Where pictures are made: in this process, or by Ray Serve replicas; one interface for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from infinite_id.types import GenerationRequest, Identity
from pipelines.serving.batcher import Batcher, Event
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError, overloaded
from pipelines.serving.worker import Deadline

__all__ = ["Backend", "LocalBackend", "RayBackend", "load_batcher"]


# The replica, which knows more, should be the one that says so.
_GRACE_SECONDS = 1.0


class Backend(Protocol):
    """Makes pictures; `events` as of `Batcher`."""

    def events(
        self,
        requests: Sequence[GenerationRequest],
        people: Mapping[str, Identity],
        timeout: float,
        previews: int = 0,
    ) -> AsyncIterator[Event]: ...

    @property
    def ready(self) -> bool: ...

    def close(self) -> None: ...


def load_batcher(config: ServiceConfig) -> Batcher:
    """The generators of the offline pipeline behind a queue.

    Raises:
        ValueError: a method's weights do not load.
    """
    import torch

    from infinite_id.config import preset
    from infinite_id.methods import load_generators
    from pipelines.plan.weights import local_preset

    # One while loading: a pool of threads that this thread leaves behind would make the one of the
    # generating thread sleep between operations.
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generators = load_generators(
        list(config.methods), local_preset(preset(config.preset)), device=device
    )
    return Batcher(
        generators,
        max_batch=config.max_batch,
        max_queue=config.max_queue,
        wait_seconds=config.batch_wait_seconds,
        threads=config.threads,
    )


class LocalBackend:
    """Generators in this process."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher

    def events(
        self,
        requests: Sequence[GenerationRequest],
        people: Mapping[str, Identity],
        timeout: float,
        previews: int = 0,
    ) -> AsyncIterator[Event]:
        """See `Batcher.events`."""
        return self.batcher.events(requests, people, timeout, previews)

    @property
    def ready(self) -> bool:
        """Whether pictures can be made."""
        return self.batcher.alive

    def close(self) -> None:
        """Finishes what waits."""
        self.batcher.close()


class RayBackend:
    """Generation replicas of Ray Serve.

    Args:
        handle: of a deployment whose `events` is `Batcher.events`.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle.options(stream=True)

    async def events(
        self,
        requests: Sequence[GenerationRequest],
        people: Mapping[str, Identity],
        timeout: float,
        previews: int = 0,
    ) -> AsyncIterator[Event]:
        """As of `Batcher`; a replica that dies costs one more attempt on another."""
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        deadline = Deadline(timeout)
        for attempt in range(2):
            # Here as well: no replica may be left to watch the time.
            answers = self._handle.events.remote(requests, people, deadline.left, previews)
            finished = False
            try:
                while not finished:
                    event = await asyncio.wait_for(anext(answers), deadline.left + _GRACE_SECONDS)
                    finished = event[0] in ("images", "error")
                    yield event
                return
            except BackPressureError:
                yield "error", overloaded("pictures")
                return
            except TimeoutError:
                yield "error", deadline.error()
                return
            except (RayActorError, DeploymentUnavailableError, StopAsyncIteration):
                if attempt:
                    message = "The generation replica was lost: try again."
                    yield "error", ServiceError(503, "replica_lost", message, 5)
            finally:
                if not finished:
                    answers.cancel()

    @property
    def ready(self) -> bool:
        """True: the application runs only once its replicas have loaded their weights."""
        return True

    def close(self) -> None:
        """Nothing: Ray Serve drains and stops its replicas."""
