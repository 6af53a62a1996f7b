"""People and rates in this process and in a replica: the same answers, and what a death does."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from pipelines.serve import SharedState
from pipelines.serving.config import ServiceConfig
from pipelines.serving.errors import ServiceError
from pipelines.serving.measures import Measures
from pipelines.serving.state import LocalState, RayState, State
from pipelines.serving.worker import Deadline
from tests.pipelines.serving.conftest import upload
from tests.pipelines.serving.test_access import another, person


class Handle:
    """In place of Ray's handle: the replica's own class, to which everything goes as a copy.

    Args:
        replica: that answers.
        before: what the first calls end with instead; None: they never end.
    """

    def __init__(self, replica: SharedState, *before: Exception | None) -> None:
        self._replica, self._before = replica, list(before)
        self.ask = self

    def remote(self, *asked):
        if not self._before:
            return asyncio.ensure_future(self._answer(copy.deepcopy(asked)))
        answer = asyncio.get_running_loop().create_future()
        error = self._before.pop(0)
        if error is not None:
            answer.set_exception(error)
        return answer

    async def _answer(self, asked):
        return copy.deepcopy(await self._replica.ask(*asked))


def shared(*before: Exception | None, patience: float = 20.0, **settings) -> RayState:
    limited = settings.get("requests_per_minute") is not None
    return RayState(Handle(SharedState(settings), *before), limited, patience)


def soon() -> Deadline:
    """Of a request that has just begun."""
    return Deadline(60)


@pytest.fixture(params=["local", "shared"])
def state_of(request):
    """`state_of(**settings)`: either of the two."""

    def make(**settings) -> State:
        if request.param == "local":
            return LocalState(ServiceConfig(**settings), Measures())
        return shared(**settings)

    return make


def answers(work) -> list:
    """What each coroutine returns, or the (status, code) of its error."""

    async def run() -> list:
        found = []
        for one in work:
            try:
                found.append(await one)
            except ServiceError as error:
                found.append((error.status, error.code))
        return found

    return asyncio.run(run())


UNKNOWN = (404, "unknown_identity")


def test_people_come_back_to_their_own_key_only(state_of):
    state = state_of()
    added, found, other, foreign, removed, gone = answers(
        [
            state.add(soon(), person("one")),
            state.get(soon(), "one", "a"),
            state.get(soon(), "one", "b"),
            state.remove(soon(), "one", "b"),
            state.remove(soon(), "one", "a"),
            state.get(soon(), "one", "a"),
        ]
    )
    assert (added, removed) == (None, None)
    assert (other, foreign, gone) == (UNKNOWN, UNKNOWN, UNKNOWN)
    assert (found.identity.identity_id, found.owner) == ("one", "a")
    np.testing.assert_array_equal(found.identity.images, person("one").identity.images)


def test_photos_are_kept_apart_from_what_requests_fetch(state_of):
    state = state_of()
    kept = replace(person("one"), photos=(b"first", b"second"))
    assert kept.nbytes == person("one").nbytes + 11
    _, found, photo, missing, foreign = answers(
        [
            state.add(soon(), kept),
            state.get(soon(), "one", "a"),
            state.photo(soon(), "one", "a", 1),
            state.photo(soon(), "one", "a", 2),
            state.photo(soon(), "one", "b", 0),
        ]
    )
    assert found.photos == ()
    assert photo == b"second"
    assert (missing, foreign) == ((404, "no_photo"), UNKNOWN)


def test_people_are_bounded_in_number_bytes_and_time(state_of):
    size = person("x").nbytes
    for bound in ({"max_identities": 2}, {"max_identity_bytes": 2 * size + 1}):
        state = state_of(**bound)
        answers([state.add(soon(), person(name)) for name in "abc"])
        kept = answers([state.get(soon(), name, "a") for name in "abc"])
        assert kept[0] == UNKNOWN
        assert [one.identity.identity_id for one in kept[1:]] == ["b", "c"]
    state = state_of(identity_ttl_seconds=0.01)
    answers([state.add(soon(), person("a"))])
    time.sleep(0.02)
    assert answers([state.get(soon(), "a", "a")]) == [UNKNOWN]


def test_each_key_has_its_rate(state_of):
    state = state_of(requests_per_minute=2)
    taken = answers([state.take(soon(), key) for key in ("a", "a", "a", "b")])
    assert taken == [None, None, (429, "rate_limited"), None]
    with pytest.raises(ServiceError) as refused:
        asyncio.run(state.take(soon(), "a"))
    assert refused.value.retry_after in range(1, 32)


def test_without_a_rate_no_replica_is_asked():
    assert answers([shared(None).take(Deadline(0), "a")]) == [None]


def test_one_death_costs_another_attempt():
    state = shared(RayActorError())
    assert answers([state.add(soon(), person("a")), state.get(soon(), "b", "a")]) == [None, UNKNOWN]


@pytest.mark.parametrize(
    ("before", "seconds", "told"),
    [
        ((RayActorError(), RayActorError()), 60, (503, "state_lost")),
        (
            (BackPressureError(num_queued_requests=9, max_queued_requests=9),),
            60,
            (503, "overloaded"),
        ),
        ((None,), 60, (503, "state_lost")),
        ((None,), 0.01, (504, "deadline")),
    ],
    ids=["dead twice", "full", "silent", "late"],
)
def test_a_replica_that_cannot_be_asked_is_a_refusal(before, seconds, told):
    state = shared(*before, patience=0.05)
    assert answers([state.get(Deadline(seconds), "a", "a")]) == [told]


def test_the_endpoints_say_so(client, monkeypatch):
    key = upload(client)
    monkeypatch.setattr(client.app.state.service, "state", shared(*[None] * 4, patience=0.05))
    asking = another(client)
    files = {"image": ("p.png", b"")}
    for refused in (
        asking.post("/v1/generate", json={"prompt": "a", "identity_id": key, "steps": 1}),
        asking.post("/v1/score", files=files, data={"identity_id": key}),
        asking.post("/v1/identities", data={"sample": "person-1"}),
        asking.delete(f"/v1/identities/{key}"),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "state_lost")
        assert refused.headers["retry-after"] == "5"
    assert asking.get("/healthz").status_code == 200


def test_kept_people_hold_no_memory_of_whoever_sent_them():
    replica, sent = SharedState({}), person("a")
    asyncio.run(replica.ask("add", sent))
    kept = asyncio.run(replica.ask("get", "a", "a"))
    for ours, theirs in (
        (kept.identity.images[0], sent.identity.images[0]),
        (kept.identity.embedding.clip, sent.identity.embedding.clip),
        (kept.identity.embedding.face, sent.identity.embedding.face),
    ):
        assert not np.shares_memory(ours, theirs)


def test_the_replica_loads_no_network():
    heavy = "('torch', 'diffusers', 'transformers', 'cv2', 'onnxruntime')"
    code = (
        "import sys; from pipelines.serve import SharedState; SharedState({}); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
