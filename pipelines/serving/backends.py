"""Where pictures are made: in this process, or by Ray Serve replicas; one interface for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from infinite_id.types import GenerationRequest, Identity
from pipelines.serving.batcher import LOST, STOPPING, Batcher, Event
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError, overloaded
from pipelines.serving.measures import Measures
from pipelines.serving.worker import Deadline

__all__ = ["Backend", "LocalBackend", "RayBackend", "load_batcher"]


# The replica, which knows more, should be the one that says so.
_GRACE_SECONDS = 1.0
# Between two questions to replicas that take no requests: Ray is replacing them.
_PAUSE_SECONDS = 0.5


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


def load_batcher(
    config: ServiceConfig,
    measures: Measures,
    on_loss: Callable[[str], None] = lambda kind: None,
    *,
    device: str | None = None,
) -> Batcher:
    """The generators of the offline pipeline behind a queue.

    Args:
        config: settings.
        measures: of this process.
        on_loss: see `Batcher`.
        device: of torch; None takes a GPU where there is one, which a process alone may.

    Raises:
        ValueError: a method's weights do not load.
    """
    import torch

    from infinite_id.methods import load_generators
    from pipelines.plan.weights import local_preset
    from pipelines.stages.device import check_device

    # One while loading: a pool of threads that this thread leaves behind would make the one of the
    # generating thread sleep between operations.
    torch.set_num_threads(1)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    family = local_preset(config.family(), config.storage_options)
    generators = load_generators(list(config.methods), family, device=device)
    return Batcher(
        generators,
        max_batch=config.max_batch,
        max_queue=config.max_queue,
        wait_seconds=config.batch_wait_seconds,
        control_windows=family.sampler.reuse_steps > 1,
        threads=config.threads,
        measures=measures,
        on_loss=on_loss,
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
        """As of `Batcher`; a replica that dies, or loses its generators, costs one more attempt.

        One that takes no requests any more costs none: the next one is asked until the deadline.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        deadline = Deadline(timeout)
        attempts = 0
        while True:
            # Here as well: no replica may be left to watch the time.
            answers = self._handle.events.remote(requests, people, deadline.left, previews)
            finished = False
            try:
                while not finished:
                    event = await asyncio.wait_for(anext(answers), deadline.left + _GRACE_SECONDS)
                    finished = event[0] in ("images", "error")
                    code = event[1].code if event[0] == "error" else None
                    if code == STOPPING and deadline.left > _PAUSE_SECONDS:
                        break
                    if code == LOST and not attempts:
                        attempts += 1
                        break
                    yield event
                else:
                    return
            except BackPressureError:
                yield "error", overloaded("pictures")
                return
            except TimeoutError:
                yield "error", deadline.error()
                return
            except (RayActorError, DeploymentUnavailableError, StopAsyncIteration):
                attempts += 1
                if attempts > 1:
                    message = "The generation replica was lost: try again."
                    yield "error", ServiceError(503, "replica_lost", message, 5)
                    return
            finally:
                if not finished:
                    answers.cancel()
            await asyncio.sleep(min(_PAUSE_SECONDS, deadline.left))

    @property
    def ready(self) -> bool:
        """True: the application runs only once its replicas have loaded their weights."""
        return True

    def close(self) -> None:
        """Nothing: Ray Serve drains and stops its replicas."""
