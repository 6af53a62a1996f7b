"""The service under attack: what an honest client notices of each, and what memory remembers.

`infinite-id serve` runs with one key, as a user starts it for other machines. An honest client asks
for one picture after the other by a loopback address; beside it one attack after the other runs in
a process of its own, from this machine's address in its network, which is bounded as any stranger's
(on a machine without one from a loopback address, which is not). Before and after
each attack it is undisturbed, so that a machine whose load changes does so for both.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from pipelines.serving.keys import hash_key, new_key

__all__ = ["ATTACKS", "run"]

_SERVE = Path(__file__).parents[1] / "jobs" / "serve.py"
_START_SECONDS = 300


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Loads the service, in turn alone and under each attack.

    Args:
        arguments: seconds (of each attack; before and after it half of that undisturbed), steps,
            connections (of an attack), attacks (names of `ATTACKS`).

    Returns:
        undisturbed_p50_ms, undisturbed_p99_ms of all that time; for each attack ATTACK_p50_ms,
        ATTACK_p99_ms, ATTACK_p99_ratio to the undisturbed p99 before and after it,
        ATTACK_cpu_ratio (CPU of the service a picture, to that of the same undisturbed time) and
        ATTACK_healthz_ms (the slowest answer of /healthz) and ATTACK_tries_per_s (steps of the
        attacker's connections, refused ones too); failed (honest requests that were not
        answered with a picture); memory_growth_mb since the first undisturbed time;
        worst_p99_ratio.

    Raises:
        RuntimeError: the service did not start.
    """
    key = new_key()
    figures: dict[str, Any] = {"failed": 0}
    with _service(key) as (url, process):
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as honest:
            person = honest.post("/v1/identities", data={"sample": "person-1"}).json()
            body = {
                "identity_id": person["identity_id"],
                "prompt": "a {subject} on the beach",
                "steps": arguments["steps"],
                "response": "image",
            }
            honest.post("/v1/generate", json=body)

            def ask(seconds: float) -> tuple[list[float], float]:
                return _honest(honest, body, seconds, figures, psutil.Process(process.pid))

            half = arguments["seconds"] / 2
            calm = [ask(half)]
            before = _memory_mb(process.pid)
            ratios = []
            for name in arguments["attacks"]:
                with _attack(name, url, key, arguments["connections"]) as (health, rate):
                    times, cpu = ask(arguments["seconds"])
                calm.append(ask(half))
                around = [ms for part, _ in calm[-2:] for ms in part]
                ratios.append(_percentile(times, 99) / _percentile(around, 99))
                figures |= {f"{name}_p{s}_ms": _percentile(times, s) for s in (50, 99)}
                figures[f"{name}_p99_ratio"] = ratios[-1]
                figures[f"{name}_cpu_ratio"] = cpu / statistics.mean(one for _, one in calm[-2:])
                figures[f"{name}_healthz_ms"] = max(health, default=float("inf"))
                figures[f"{name}_tries_per_s"] = rate[0]
            all_calm = [ms for part, _ in calm for ms in part]
            figures |= {f"undisturbed_p{s}_ms": _percentile(all_calm, s) for s in (50, 99)}
            figures["memory_growth_mb"] = _memory_mb(process.pid) - before
            figures["worst_p99_ratio"] = max(ratios)
    return figures


def _honest(
    client: httpx.Client,
    body: dict[str, Any],
    seconds: float,
    figures: dict[str, Any],
    process: psutil.Process,
) -> tuple[list[float], float]:
    """(milliseconds of each picture, the service's CPU seconds a picture)."""
    times, end, used = [], time.monotonic() + seconds, process.cpu_times()
    while time.monotonic() < end:
        begin = time.monotonic()
        answer = client.post("/v1/generate", json=body)
        times.append(1000 * (time.monotonic() - begin))
        figures["failed"] += not answer.is_success
    now = process.cpu_times()
    return times, (now.user + now.system - used.user - used.system) / len(times)


def _percentile(times: list[float], share: int) -> float:
    return statistics.quantiles([*times, *times], n=100, method="inclusive")[share - 1]


def _memory_mb(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20


@contextlib.contextmanager
def _service(key: str) -> Iterator[tuple[str, subprocess.Popen]]:
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))  # noqa: S104
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "service.yaml"
        settings = {"methods": ["infinite_id"], "key_hashes": [hash_key(key)]}
        path.write_text(yaml.safe_dump(settings))
        command = [sys.executable, str(_SERVE), "--config", str(path)]
        command += ["--host", "0.0.0.0", "--port", str(port)]  # noqa: S104
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + _START_SECONDS
        try:
            while not _ready(url):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the service did not start, code {process.poll()}")
                time.sleep(0.2)
            yield url, process
        finally:
            process.terminate()
            process.wait(timeout=200)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz").is_success
    return False


def _own_address() -> str:
    """This machine's in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # A documentation address (RFC 5737): nothing is sent, the route alone is asked for.
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
    print("this machine has no network: the attacks come from 127.0.0.1", flush=True)
    return "127.0.0.1"


@contextlib.contextmanager
def _attack(
    name: str, url: str, key: str, connections: int
) -> Iterator[tuple[list[float], list[float]]]:
    """Runs an attack; yields the milliseconds of /healthz beside it, as they are measured, and, in
    the end, the attacker's tries per second."""
    context = multiprocessing.get_context("spawn")
    tries: Synchronized = context.Value("q", 0)
    arguments = (name, url, key, connections, tries)
    process = context.Process(target=_run_attack, args=arguments, daemon=True)
    process.start()
    time.sleep(2)
    health: list[float] = []
    rate: list[float] = []
    begun, before = time.monotonic(), tries.value
    over = threading.Event()

    def probe() -> None:
        while not over.wait(0.5):
            begin = time.monotonic()
            httpx.get(f"{url}/healthz", timeout=30).raise_for_status()
            health.append(1000 * (time.monotonic() - begin))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield health, rate
    finally:
        rate.append((tries.value - before) / (time.monotonic() - begun))
        over.set()
        thread.join()
        process.terminate()
        process.join()


def _run_attack(name: str, url: str, key: str, connections: int, tries: Synchronized) -> None:
    """For ever; a closed connection is opened again."""
    host, port = _own_address(), url.rpartition(":")[2]
    # It stands for another machine, so it takes no core that the service wants; `tries_per_s` says
    # what it does all the same.
    os.nice(19)
    ones: list[socket.socket | None] = [None] * connections
    while True:
        for number, one in enumerate(ones):
            with contextlib.suppress(OSError):
                fresh = one is None
                tries.value += 1
                if one is None:
                    one = socket.create_connection((host, int(port)), timeout=5)
                ones[number] = ATTACKS[name](one, key, fresh)
                continue
            ones[number] = None
        time.sleep(0.05)


def _head(path: str, length: int, key: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def _wrong_keys(one: socket.socket, key: str, fresh: bool) -> socket.socket | None:
    one.sendall(_head("/v1/generate", 0, "iid_00000000_" + "x" * 43))
    return one if one.recv(4096) else None


def _half_headers(one: socket.socket, key: str, fresh: bool) -> socket.socket | None:
    return _silent(one, b"GET /v1/st" if fresh else b"")


def _silent_bodies(one: socket.socket, key: str, fresh: bool) -> socket.socket | None:
    """Announces 30 MB and says nothing more; with a right key, for others hold nothing at all."""
    return _silent(one, _head("/v1/generate", 30_000_000, key) + b"{" if fresh else b"")


def _silent(one: socket.socket, data: bytes) -> socket.socket | None:
    one.sendall(data)
    one.settimeout(0.001)
    with contextlib.suppress(TimeoutError):
        return one if one.recv(1) else None
    return one


def _bombs(one: socket.socket, key: str, fresh: bool) -> socket.socket | None:
    """A large body without a key."""
    one.sendall(_head("/v1/generate", 30_000_000, "none"))
    one.sendall(b"x" * 1_000_000)
    one.close()
    return None


def _disconnects(one: socket.socket, key: str, fresh: bool) -> socket.socket | None:
    """Asks with a right key and leaves at once."""
    one.sendall(b"GET /v1/styles HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ")
    one.sendall(key.encode() + b"\r\n\r\n")
    one.close()
    return None


ATTACKS: dict[str, Callable[[socket.socket, str, bool], socket.socket | None]] = {
    "wrong_keys": _wrong_keys,
    "half_headers": _half_headers,
    "silent_bodies": _silent_bodies,
    "bombs": _bombs,
    "disconnects": _disconnects,
}
"""One step of one connection, new or not: what is left of it, None where it is over."""
