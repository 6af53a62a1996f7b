"""Generators that raise what a broken or full GPU raises."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch

from infinite_id.control_image import control_image
from infinite_id.types import GeneratedImage, GenerationRequest, RefusedRequestsError
from pipelines.serving.batcher import Batcher


class Generator:
    """Fails as told: `failing(requests)` returns an exception or None."""

    revision = "x"

    def __init__(self, failing) -> None:
        self.failing, self.sizes = failing, []

    def generate(self, requests, people, **hooks):
        self.sizes.append(len(requests))
        error = self.failing(requests)
        if error is not None:
            raise error
        image = np.zeros((64, 64, 3), np.uint8)
        return [GeneratedImage(one.sample_id, image, 0.1) for one in requests]


def request(seed: int, prompt: str = "a person") -> GenerationRequest:
    return GenerationRequest(
        sample_id=f"{prompt}-{seed}",
        identity_id="x",
        method="m",
        prompt=prompt,
        negative_prompt="",
        style="",
        seed=seed,
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=5.0,
    )


def run(failing, *orders, **settings) -> SimpleNamespace:
    """All orders at once through a batcher over that generator."""
    generator, losses, lost = Generator(failing), [], threading.Event()

    def on_loss(kind: str) -> None:
        losses.append(kind)
        lost.set()

    batcher = Batcher(
        {"m": generator}, max_batch=8, max_queue=32, wait_seconds=0.2, on_loss=on_loss, **settings
    )

    async def one(order) -> tuple:
        return [event async for event in batcher.events(order, {}, 20)][-1]

    async def all_of_them() -> list[tuple]:
        return await asyncio.gather(*map(one, orders))

    answers = asyncio.run(all_of_them())
    alive = batcher.alive
    batcher.close()
    return SimpleNamespace(
        answers=answers, sizes=generator.sizes, losses=losses, alive=alive, batcher=batcher
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        MemoryError(),
    ],
    ids=["accelerator", "runtime", "memory"],
)
def test_a_sticky_error_takes_the_generators_out_and_fails_what_waits(error):
    done = run(lambda requests: error, [request(1)], [request(2)], [request(n) for n in range(8)])
    assert [(kind, value.status, value.code) for kind, value in done.answers] == [
        ("error", 503, "generator_lost")
    ] * 3
    assert done.losses == [type(error).__name__]
    assert not done.alive
    assert len(done.sizes) == 1


def test_pictures_that_do_not_fit_together_are_made_in_parts():
    def failing(requests):
        return torch.OutOfMemoryError("CUDA out of memory") if len(requests) > 2 else None

    order = [request(n) for n in range(6)]
    done = run(failing, order)
    ((kind, pictures),) = done.answers
    assert kind == "images"
    assert [one.sample_id for one in pictures] == [one.sample_id for one in order]
    assert done.losses == []
    assert max(done.sizes[1:]) <= 3


@pytest.mark.parametrize(("apart", "sizes"), [(False, [3]), (True, [1, 2])])
def test_controls_of_other_steps_are_made_apart_where_features_are_kept(apart, sizes):
    black = np.zeros((64, 64, 3), np.uint8)
    held = [
        replace(request(1), control_image=control_image(black, 64, 64, end=e)) for e in (0.5, 1)
    ]
    done = run(
        lambda requests: None, *([one] for one in (*held, request(1))), control_windows=apart
    )
    assert sorted(done.sizes) == sizes


def test_one_picture_that_does_not_fit_takes_the_generators_out():
    done = run(lambda requests: torch.OutOfMemoryError("CUDA out of memory"), [request(1)] * 2)
    assert done.answers[0][1].code == "generator_lost"
    assert done.losses == ["OutOfMemoryError"]


def test_one_bad_request_costs_its_batch_mates_nothing():
    def failing(requests):
        bad = any(one.prompt == "bad" for one in requests)
        return ValueError("prompt is bad, allowed: good") if bad else None

    orders = [[request(n, "bad" if n == 3 else "good")] for n in range(5)]
    done = run(failing, *orders)
    kinds = [kind for kind, _ in done.answers]
    assert kinds == ["images", "images", "images", "error", "images"]
    assert done.answers[3][1].code == "refused"
    assert done.alive


def test_requests_that_are_named_leave_the_batch_at_once():
    def failing(requests):
        bad = [n for n, one in enumerate(requests) if one.prompt == "bad"]
        return RefusedRequestsError({n: f"request {n} is bad" for n in bad}) if bad else None

    orders = [[request(n, "bad" if n in (1, 3) else "good")] for n in range(5)]
    done = run(failing, *orders, [request(5, "good"), request(6, "bad")])
    kinds = [kind for kind, _ in done.answers]
    assert kinds == ["images", "error", "images", "error", "images", "error"]
    assert {done.answers[n][1].code for n in (1, 3, 5)} == {"refused"}
    # A caller's pictures are made together or not at all.
    assert done.sizes == [7, 3]
    assert done.alive


def test_infinite_id_serve_answers_what_came_and_ends_with_code_1():
    """The real command in a process of its own, started in the repository as a user starts it."""
    command = [sys.executable, "-m", "tests.pipelines.serving.broken_gpu", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--set", "methods=[broken_gpu]"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        address = re.fullmatch(r"ready on (http://\S+) \(pocket, 1 method\)", lines[-1].strip())
        assert address, (lines, process.poll() and process.stderr.read())
        with httpx.Client(base_url=address[1], timeout=60) as http:
            person = http.post("/v1/identities", data={"sample": "person-1"}).json()
            body = {"identity_id": person["identity_id"], "prompt": "a {subject}"}
            with http.stream("POST", "/v1/generate", json={**body, "stream": True}) as before:
                events = before.iter_lines()
                assert next(events) == "event: queued"
                # With other steps it is of another batch, after that.
                broken = {**body, "prompt": "break a {subject}", "steps": 3}
                lost = http.post("/v1/generate", json=broken)
                assert "event: result" in list(events)
        assert (lost.status_code, lost.json()["error"]["code"]) == (503, "generator_lost")
        assert lost.headers["retry-after"] == "5"
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 1
    assert told.splitlines()[-1] == (
        "failed: the service has lost the generators, AcceleratorError"
    )
