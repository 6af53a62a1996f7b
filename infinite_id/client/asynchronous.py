"""The asyncio client; the blocking one is made from this file."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack

import httpx

from infinite_id.client.calls import (
    EventReader,
    GenerateOptions,
    Photo,
    Who,
    access,
    generate_body,
    identity_form,
    score_form,
    who_id,
)
from infinite_id.client.results import Event, Generation, Identity, Method, Sample, Settings, Style
from infinite_id.client.retry import FAILURES, Retry, failure, raise_for_error

__all__ = ["AsyncClient"]


class AsyncClient:
    """The service at one address. Safe in several threads or, with await, in one event loop.

    Every method raises ServiceError with the service's code and sentence, ConnectionError or
    TimeoutError.

    Args:
        server: address, with the path under which the service is mounted; by default the
            variable INFINITE_ID_SERVER, else http://127.0.0.1:8000.
        api_key: where the service needs one; by default the variable INFINITE_ID_API_KEY.
        timeout: seconds without a byte of the answer.
        retry: when to ask again.
        transport: of httpx, for proxies of its own or tests.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 180.0,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.server, options = access(server, api_key, timeout)
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(**options, transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Returns once pictures can be made.

        Args:
            timeout: seconds after which the last error is raised.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                return raise_for_error(await self._http.get("/readyz"))
            except FAILURES as error:
                if time.monotonic() > end:
                    raise failure(error, self.server) from None
                await asyncio.sleep(0.25)

    async def add_identity(
        self,
        *photos: Photo,
        sample: str | None = None,
        face: int | str = "single",
        class_word: str = "person",
        keep_photos: bool = False,
    ) -> Identity:
        """Embeds one person.

        Args:
            photos: of that person; paths or bytes of image files.
            sample: a sample person instead, of `samples`.
            face: "single", "largest", or a face's number from the left.
            class_word: what {subject} becomes in prompts.
            keep_photos: the service keeps the photos as long as the person, see `photo`; else it
                keeps none.
        """
        form = identity_form(photos, sample, face, class_word, keep_photos)
        return Identity.model_validate(await self._json("POST", "/v1/identities", **form))

    async def photo(self, identity: Who, number: int = 0) -> bytes:
        """A photo that was kept: a JPEG file without metadata, upright."""
        path = f"/v1/identities/{who_id(identity)}/photos/{number}"
        kept = await self._request("GET", path)
        return kept.content

    async def remove_identity(self, identity: Who) -> None:
        """Makes the service forget a person at once."""
        await self._request("DELETE", f"/v1/identities/{who_id(identity)}")

    async def generate(
        self,
        prompt: str,
        *,
        identity: Who | None = None,
        mix: Mapping[Who, float] | Sequence[Who] | None = None,
        group: Sequence[Who] | None = None,
        photos: Sequence[Photo] | None = None,
        on_event: Callable[[Event], None] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Makes pictures of one person, of a mix of people, or of a group.

        Args:
            prompt: may hold {subject}.
            identity: a person; exactly one of identity, mix, group and photos says who.
            mix: people and their weights, which sum to 1; with `mix_mode="stack"` the people alone.
            group: people in one picture, left to right; option `regions`: their boxes x0, y0, x1,
                y1 in fractions of the picture; without it they get the faces of the prompt.
            photos: of a person that is not to be kept.
            on_event: called with each event of `stream`.
            options: see `GenerateOptions`.
        """
        body = generate_body(prompt, identity, mix, group, photos, options)
        if on_event is None:
            return Generation.of(
                await self._json("POST", "/v1/generate", json=body), body, self.server
            )
        made: list[Generation] = []
        async for event in self._events(body):
            on_event(event)
            if isinstance(event, Generation):
                made.append(event)
        return made[0]

    def stream(
        self,
        prompt: str,
        *,
        identity: Who | None = None,
        mix: Mapping[Who, float] | Sequence[Who] | None = None,
        group: Sequence[Who] | None = None,
        photos: Sequence[Photo] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncIterator[Event]:
        """As `generate`, step by step; the pictures come last.

        An attempt that is made again starts with another `Queued`. Closing the iterator early
        cancels the work.
        """
        return self._events(generate_body(prompt, identity, mix, group, photos, options))

    async def score(
        self, image: Photo, *, prompt: str = "", identity: Who | None = None
    ) -> dict[str, float | None]:
        """Scores of a picture by metric, None where it cannot be scored."""
        return await self._json("POST", "/v1/score", **score_form(image, prompt, identity))

    async def styles(self) -> list[Style]:
        """Styles and the words that they add."""
        return [Style.model_validate(row) for row in await self._json("GET", "/v1/styles")]

    async def methods(self) -> list[Method]:
        """Methods offered; the first is the default."""
        return [Method.model_validate(row) for row in await self._json("GET", "/v1/methods")]

    async def samples(self) -> list[Sample]:
        """Sample people, who do not exist."""
        return [Sample.model_validate(row) for row in await self._json("GET", "/v1/samples")]

    async def settings(self) -> Settings:
        """Defaults and limits of the service, and what its scores mean."""
        return Settings.model_validate(await self._json("GET", "/v1/settings"))

    async def _json(self, method: str, path: str, **content: Any) -> Any:
        answer = await self._request(method, path, **content)
        return answer.json()

    async def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        for attempt in itertools.count(1):
            try:
                response = await self._http.request(method, path, **content)
                raise_for_error(response)
                return response
            except FAILURES as error:
                await self._pause(attempt, error)
        raise AssertionError("the last attempt raises")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[Event]:
        for attempt in itertools.count(1):
            reader = EventReader(body, self.server)
            try:
                async with self._http.stream(
                    "POST", "/v1/generate", json={**body, "stream": True}
                ) as response:
                    if not response.is_success:
                        await response.aread()
                    raise_for_error(response)
                    async for line in response.aiter_lines():
                        event = reader.feed(line)
                        if event is not None:
                            yield event
                        if isinstance(event, Generation):
                            return
                raise httpx.RemoteProtocolError("the events ended without pictures")
            except FAILURES as error:
                await self._pause(attempt, error)

    async def _pause(self, attempt: int, error: Exception) -> None:
        wait = self._retry.wait(attempt, error)
        if wait is None:
            raise failure(error, self.server) from None
        await asyncio.sleep(wait)
