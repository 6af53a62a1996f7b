"""The service at saturation, and its generator in a plain loop: what is left of its speed.

`infinite-id serve` runs as a user starts it, in a process of its own; locust asks it without a
pause. Another process runs the same generator on batches that are drawn alike. The two take turns,
so that a machine whose load changes does so for both.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

__all__ = ["ENDPOINTS", "PROMPTS", "run"]

ENDPOINTS = ("/v1/generate", "/v1/images/edits")

PROMPTS = (
    "a {subject} on the beach",
    "a {subject} in the snow, sunny",
    "a {subject} reading a newspaper",
    "a {subject} in a garden, oil painting",
)
_LOCUST = Path(__file__).with_name("locust_serving.py")
_SERVE = Path(__file__).parents[1] / "jobs" / "serve.py"
_POLL_SECONDS = 0.1
_PICTURES = re.compile(r"^infinite_id_service_pictures_total (\S+)", re.MULTILINE)


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the service and its bare generator in turn.

    Args:
        arguments: endpoint (of ENDPOINTS: of a person that is kept, or of a photo that comes with
            each request), seconds (of load, in all), rounds, users, people, prompts (counts),
            steps, max_batch, threads.

    Returns:
        start_seconds (command to ready); images_per_s and bare_images_per_s (medians of the
        rounds); ratio_to_bare (median of the rounds' ratios to the loops before and after);
        p50_ms, p95_ms, p99_ms, requests, errors by locust; memory_mb at the end and
        memory_growth_mb since the first round.

    Raises:
        RuntimeError: the service, its generator or locust did not start.
        ValueError: another endpoint.
    """
    endpoint = arguments["endpoint"]
    if endpoint not in ENDPOINTS:
        raise ValueError(f"endpoint is {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
    seconds = arguments["seconds"] / arguments["rounds"]
    answers: Counter[int] = Counter()
    figures: Counter[str] = Counter()
    served, ratios, memory = [], [], []
    with _bare(arguments) as bare, _service(arguments) as service:
        service.load(arguments, min(10.0, seconds))
        loops = [bare.images_per_s(seconds / 3)]
        for _ in range(arguments["rounds"]):
            speed, stats = service.load(arguments, seconds)
            served.append(speed)
            memory.append(service.memory_mb())
            loops.append(bare.images_per_s(seconds / 3))
            ratios.append(speed / statistics.mean(loops[-2:]))
            for row in stats:
                figures.update({"errors": row["num_failures"]})
                if row["name"] == endpoint:
                    figures.update({"requests": row["num_requests"]})
                    times = {int(ms): count for ms, count in row["response_times"].items()}
                    answers.update(times)
        print("ratios of the rounds:", *(f"{ratio:.3f}" for ratio in ratios), flush=True)
        start = service.start_seconds
    return {
        "start_seconds": start,
        "images_per_s": statistics.median(served),
        "bare_images_per_s": statistics.median(loops),
        "ratio_to_bare": statistics.median(ratios),
        **{f"p{share}_ms": _percentile(answers, share) for share in (50, 95, 99)},
        "requests": figures["requests"],
        "errors": figures["errors"],
        "memory_mb": memory[-1],
        "memory_growth_mb": memory[-1] - memory[0],
    }


def _percentile(counts: Counter[int], share: int) -> float:
    """Of a histogram, milliseconds -> answers."""
    left = share / 100 * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return float(value)
    return float("nan")


class _Service:
    """The service in a process of its own."""

    def __init__(self, process: subprocess.Popen, url: str, start_seconds: float) -> None:
        self._process, self._url, self.start_seconds = process, url, start_seconds

    def memory_mb(self) -> float:
        """Resident set of the process."""
        return psutil.Process(self._process.pid).memory_info().rss / 2**20

    def load(self, arguments: Mapping[str, Any], seconds: float) -> tuple[float, list[dict]]:
        """(images/s between the first and the last finished batch, locust's statistics)."""
        keys = ("endpoint", "people", "prompts", "steps")
        environment = {**os.environ, "LOAD": json.dumps({key: arguments[key] for key in keys})}
        users, span = str(arguments["users"]), f"{seconds:.0f}s"
        command = [sys.executable, "-m", "locust", "-f", str(_LOCUST), "--host", self._url]
        command += ["--headless", "-u", users, "-r", users, "-t", span, "--stop-timeout", "60s"]
        command += ["--json", "--skip-log", "--exit-code-on-error", "0", "--reset-stats"]
        begin = time.monotonic()
        locust = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        changes: list[tuple[float, float]] = []
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while time.monotonic() < begin + seconds:
                found = _PICTURES.search(http.get("/metrics").text)
                count = float(found[1]) if found else 0.0
                if not changes or changes[-1][1] != count:
                    changes.append((time.monotonic(), count))
                time.sleep(_POLL_SECONDS)
        output, _ = locust.communicate()
        if locust.returncode != 0:
            raise RuntimeError(
                f"locust ended with code {locust.returncode}; pip install -e '.[load]' installs it"
            )
        if len(changes) < 3:
            return float("nan"), json.loads(output)
        # The first one is the state at the start, when nothing has been asked for.
        (first, before), (last, after) = changes[1], changes[-1]
        return (after - before) / (last - first), json.loads(output)


@contextlib.contextmanager
def _service(arguments: Mapping[str, Any]) -> Iterator[_Service]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {key: arguments[key] for key in ("max_batch", "threads")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "service.yaml"
        path.write_text(yaml.safe_dump(settings | {"methods": ["infinite_id"]}))
        command = [sys.executable, str(_SERVE), "--config", str(path)]
        begin = time.monotonic()
        process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            while not _ready(url):
                if process.poll() is not None:
                    raise RuntimeError(f"the service ended with code {process.returncode}")
                time.sleep(_POLL_SECONDS)
            yield _Service(process, url, time.monotonic() - begin)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz").is_success
    return False


class _Bare:
    """The generator in a process of its own."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def images_per_s(self, seconds: float) -> float:
        """Of whole batches in at least so many seconds."""
        self._pipe.send(seconds)
        return self._pipe.recv()


@contextlib.contextmanager
def _bare(arguments: Mapping[str, Any]) -> Iterator[_Bare]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_generate, args=(theirs, dict(arguments)), daemon=True)
    process.start()
    if ours.recv() != "ready":
        raise RuntimeError("the bare generator did not load")
    try:
        yield _Bare(ours)
    finally:
        process.terminate()
        process.join()


def _generate(pipe: Connection, arguments: dict[str, Any]) -> None:
    """Batches as the service would draw them, for as long as the pipe says."""
    import torch

    from infinite_id.config import preset
    from infinite_id.faces.photos import PhotoLimits
    from infinite_id.methods import load_generator
    from infinite_id.types import GenerationRequest
    from pipelines.serving.faces import FaceStage
    from pipelines.serving.page import sample_names, sample_photo

    torch.set_num_threads(arguments["threads"])
    family = preset("pocket")
    faces = FaceStage(family, PhotoLimits(), 20.0)
    people = {
        name: faces.embed([sample_photo(name)], "single", "person", "x").identity
        for name in sample_names()[: arguments["people"]]
    }
    generator = load_generator("infinite_id", family)
    rng = random.Random(0)

    def request() -> GenerationRequest:
        return GenerationRequest(
            sample_id="x",
            identity_id=rng.choice(list(people)),
            method="infinite_id",
            prompt=rng.choice(PROMPTS[: arguments["prompts"]]).format(subject="person"),
            negative_prompt="",
            style="",
            seed=0,
            height=family.height,
            width=family.width,
            num_inference_steps=arguments["steps"],
            guidance_scale=family.sampler.guidance_scale,
        )

    def batch() -> None:
        requests = [request() for _ in range(arguments["max_batch"])]
        generator.generate(sorted(requests, key=lambda one: one.prompt), people)

    batch()
    pipe.send("ready")
    while True:
        seconds, count = pipe.recv(), 0
        begin = time.monotonic()
        while time.monotonic() < begin + seconds:
            batch()
            count += arguments["max_batch"]
        pipe.send(count / (time.monotonic() - begin))
