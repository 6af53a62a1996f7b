"""Dynamic batching: requests of different people and texts in one generator call.

Pictures do not depend on their batch mates: noise comes from each request's own seed
(`infinite_id.generator`), so batching changes the time and not the pixels. A batch that fails is
halved, so that one request does not cost the others theirs, and one that a GPU's memory does not
hold is made in parts. An error that is the GPU's own ends the batcher: CUDA answers every later
call with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinite_id.control_image import control_window
from infinite_id.init_image import first_step
from infinite_id.types import (
    CancelledError,
    GeneratedImage,
    GenerationRequest,
    Generator,
    Identity,
    PreviewHook,
    RefusedRequestsError,
)
from pipelines.run.failures import is_fatal
from pipelines.serving.errors import ServiceError, overloaded
from pipelines.serving.measures import Measures
from pipelines.tables.pictures import encode_image

__all__ = ["Batcher", "Event", "LOST", "STOPPING"]

LOST, STOPPING = "generator_lost", "stopping"
"""Codes: the generator was lost with the request, or takes no request."""

Event = tuple[str, Any]
"""("queued", pictures before it), ("step", (step, steps)), ("preview", (step, index, JPEG)),
("images", [GeneratedImage]) or ("error", ServiceError); the last two end the stream."""

_LOG = logging.getLogger(__name__)


class _Job:
    """The requests of one caller; they wait and are answered together."""

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        people: Mapping[str, Identity],
        deadline: float,
        previews: int,
    ) -> None:
        self.requests, self.people, self.deadline = list(requests), people, deadline
        self._previews = previews
        self.gone = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._made: dict[int, GeneratedImage] = {}

    def key(self, control_windows: bool) -> tuple:
        """What requests must share to be denoised together; see `Batcher`."""
        first = self.requests[0]
        return (
            first.method,
            first.height,
            first.width,
            first.num_inference_steps,
            first_step(first.init_image, first.num_inference_steps or 0),
            first.guidance_scale is None or first.guidance_scale > 1,
            control_window(first.control_image) if control_windows else None,
        )

    def send(self, event: Event) -> None:
        if self.gone.is_set():
            return
        # A loop that is closed has nobody who waits; the thread goes on for the others.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def add(self, index: int, picture: GeneratedImage) -> None:
        """One picture is there; the last one answers the caller."""
        self._made[index] = picture
        if len(self._made) == len(self.requests):
            self.send(("images", [self._made[n] for n in range(len(self.requests))]))

    def fail(self, error: ServiceError) -> None:
        """There will be no pictures."""
        self.send(("error", error))
        self.gone.set()

    def wants_preview(self, step: int, steps: int) -> bool:
        """Whether `step` is one of so many, evenly spread; the last one shows the picture."""
        if step == steps or self.gone.is_set():
            return False
        parts = self._previews + 1
        return step * parts // steps > (step - 1) * parts // steps

    @property
    def over(self) -> bool:
        return self.gone.is_set() or time.monotonic() > self.deadline


_Place = tuple[_Job, int]


class Batcher:
    """A bounded queue before generators, and the one thread that runs them.

    Args:
        generators: by method.
        max_batch: most pictures of one call; a single caller's pictures are never cut apart.
        max_queue: most pictures that wait.
        wait_seconds: how long the first job waits for others.
        control_windows: controls that act in other steps are denoised apart, as the generators do
            with `reuse_steps`.
        threads: of torch on the CPU, in the thread that generates.
        measures: of this process.
        on_loss: told, in the generation thread, what kind of error took the generators out.
    """

    def __init__(
        self,
        generators: Mapping[str, Generator],
        *,
        max_batch: int,
        max_queue: int,
        wait_seconds: float,
        control_windows: bool = False,
        threads: int = 1,
        measures: Measures | None = None,
        on_loss: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._threads, self._windows = threads, control_windows
        self._measures, self._on_loss = measures or Measures(), on_loss
        self.lost: str | None = None
        """Kind of the error that took the generators out."""
        self._generators = generators
        self._max_batch, self._max_queue, self._wait = max_batch, max_queue, wait_seconds
        self._jobs: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self.batches: deque[int] = deque(maxlen=1000)
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return sum(len(job.requests) for job in self._jobs)

    @property
    def alive(self) -> bool:
        """Whether pictures can be made."""
        return self._thread.is_alive() and not self._closed and self.lost is None

    def close(self) -> None:
        """Takes no more work, finishes what waits, and ends the thread."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._thread.join()

    async def events(
        self,
        requests: Sequence[GenerationRequest],
        people: Mapping[str, Identity],
        timeout: float,
        previews: int = 0,
    ) -> AsyncIterator[Event]:
        """What happens to requests of one method, size and number of steps.

        Args:
            requests: of one caller.
            people: that they show, by identity_id.
            timeout: seconds until an error, 504.
            previews: unfinished pictures to send of each request.

        Leaving the iteration early cancels the work between two steps, once nobody else in the
        batch waits for it.
        """
        job = _Job(requests, people, time.monotonic() + timeout, previews)
        try:
            with self._ready:
                if not self.alive:
                    raise ServiceError(503, STOPPING, "The service is stopping.", 5)
                before = self.waiting
                if before + len(requests) > self._max_queue:
                    raise overloaded("pictures")
                self._jobs.append(job)
                self._tell_queue()
                self._ready.notify_all()
            yield "queued", before
            while True:
                left = max(0.0, job.deadline - time.monotonic())
                event = await asyncio.wait_for(job.events.get(), left)
                yield event
                if event[0] in ("images", "error"):
                    return
        except ServiceError as error:
            yield "error", error
        except TimeoutError:
            yield "error", ServiceError(504, "deadline", f"No answer within {timeout:g} seconds.")
        finally:
            job.gone.set()
            with self._ready:
                if job in self._jobs:
                    self._jobs.remove(job)
                    self._tell_queue()

    def _tell_queue(self) -> None:
        self._measures.record("queue_pictures", self.waiting)

    def _run(self) -> None:
        import torch

        # Here: OpenMP counts threads for each thread that computes.
        torch.set_num_threads(self._threads)
        while self.lost is None and (jobs := self._next()):
            places = [(job, index) for job in jobs for index in range(len(job.requests))]
            # Equal texts side by side share a text stream.
            self._generate(sorted(places, key=_text))

    def _next(self) -> list[_Job]:
        """The jobs of the next batch; none once the batcher is closed and empty."""
        with self._ready:
            while True:
                while not self._jobs:
                    if self._closed:
                        return []
                    self._ready.wait()
                until = time.monotonic() + self._wait
                while self.waiting < self._max_batch and not self._closed:
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._ready.wait(left)
                if taken := self._take():
                    return taken

    def _take(self) -> list[_Job]:
        taken: list[_Job] = []
        size = 0
        for job in list(self._jobs):
            if job.over:
                self._jobs.remove(job)
            elif not taken or (
                job.key(self._windows) == taken[0].key(self._windows)
                and size + len(job.requests) <= self._max_batch
            ):
                self._jobs.remove(job)
                taken.append(job)
                size += len(job.requests)
        self._tell_queue()
        return taken

    def _generate(self, places: list[_Place]) -> None:
        requests = [job.requests[index] for job, index in places]
        jobs = list({id(job): job for job, _ in places}.values())
        people = {key: person for job in jobs for key, person in job.people.items()}
        self.batches.append(len(requests))

        def on_step(step: int, steps: int) -> None:
            for job in jobs:
                job.send(("step", (step, steps)))

        def wanted(step: int, steps: int) -> list[int]:
            asking = {id(job) for job in jobs if job.wants_preview(step, steps)}
            return [n for n, (job, _) in enumerate(places) if id(job) in asking]

        def show(position: int, step: int, picture: NDArray[np.uint8]) -> None:
            # To the one caller whose request it is.
            job, index = places[position]
            job.send(("preview", (step, index, encode_image(picture, "jpeg"))))

        begin = time.monotonic()
        try:
            made = self._generators[requests[0].method].generate(
                requests,
                people,
                on_step=on_step,
                should_stop=lambda: all(job.over for job in jobs),
                previews=PreviewHook(wanted, show),
            )
        except CancelledError:
            return
        except RefusedRequestsError as error:
            for position, sentence in error.faults.items():
                places[position][0].fail(ServiceError(422, "refused", f"{sentence}."))
            left = [place for place in places if not place[0].gone.is_set()]
            if left:
                self._generate(left)
            return
        except Exception as error:
            self._failed(places, jobs, error)
            return
        finally:
            seconds = time.monotonic() - begin
            self._measures.record("batch_pictures", len(requests))
            self._measures.record("batch_seconds", seconds, method=requests[0].method)
            self._measures.record("generator_busy_seconds_total", seconds)
        for (job, index), picture in zip(places, made, strict=True):
            job.add(index, picture)

    def _failed(self, places: list[_Place], jobs: list[_Job], error: Exception) -> None:
        kind = type(error).__name__
        if is_fatal(error, alone=len(places) == 1):
            self._lose(jobs, kind)
            return
        full = kind == "OutOfMemoryError"
        if full:
            _LOG.warning("out of memory with %d pictures: made in parts", len(places))
            sys.modules["torch"].cuda.empty_cache()
        if full or len(jobs) > 1:
            # One bad request must not cost its batch mates their pictures.
            for part in _halves(places, jobs, full):
                if self.lost is None and not all(job.over for job, _ in part):
                    self._generate(part)
                elif self.lost is not None:
                    self._fail_lost(job for job, _ in part)
            return
        if isinstance(error, ValueError):
            jobs[0].fail(ServiceError(422, "refused", f"{error}."))
            return
        # The message may quote a prompt, so only its kind is logged.
        _LOG.error("generation failed: %s", kind)
        jobs[0].fail(ServiceError(500, "generation_failed", "The generation failed."))

    def _lose(self, jobs: list[_Job], kind: str) -> None:
        with self._ready:
            self.lost = kind
            waiting = list(self._jobs)
            self._jobs.clear()
            self._tell_queue()
        _LOG.critical("the generators are lost: %s", kind)
        self._measures.record("generators_lost_total")
        self._fail_lost((*jobs, *waiting))
        self._on_loss(kind)

    def _fail_lost(self, jobs: Iterable[_Job]) -> None:
        for job in jobs:
            job.fail(ServiceError(503, LOST, "The generator was lost: try again.", 5))


def _halves(places: list[_Place], jobs: list[_Job], parts: bool) -> tuple[list[_Place], ...]:
    """Two lists of places: with half of the jobs each, or in `parts`, which may cut one apart."""
    if parts:
        middle = len(places) // 2
        return places[:middle], places[middle:]
    first = {id(job) for job in jobs[: len(jobs) // 2]}
    return (
        [place for place in places if id(place[0]) in first],
        [place for place in places if id(place[0]) not in first],
    )


def _text(place: _Place) -> tuple[str, str, int]:
    request = place[0].requests[place[1]]
    return request.prompt, request.negative_prompt, request.seed
