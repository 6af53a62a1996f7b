"""Hosts on one machine: network namespaces at a bridge, each with an address and a /tmp of its own.

    python -m benchmarks.hosts up        makes a head, two workers and an S3 host, and says how to
    python -m benchmarks.hosts down      enter them; removes them with all that runs in them

Linux, as root. All share this machine's disk, as machines of one image do.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["Host", "hosts", "not_permitted"]

_NETWORK = "10.213"
_SETS = range(16)
_BRIDGE = "iid-bridge"
_PREFIX = "iid"
_OURS = re.compile(rf"{_PREFIX}\d+-.+")
# Ray's shared memory lies in /dev/shm, its sockets and addresses in /tmp.
_OWN_PLACES = "mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /dev/shm && exec sleep infinity"


class Host:
    """A network namespace and a mount namespace, held by a process that sleeps.

    Attributes:
        name: of the network namespace.
        address: IPv4, which the other hosts and this machine reach.
        holder: id of the process that holds its namespaces.
    """

    def __init__(self, name: str, number: int, of: int) -> None:
        self.name, self.address = f"{_PREFIX}{of}-{name}", f"{_NETWORK}.{of}.{number}"
        self._link = f"{_PREFIX}{of}v{number}"
        _clear(self.name, self._link)
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self._link, "master", f"{_BRIDGE}{of}", "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", self.name, "link", "set", link, "up")
        own = ["ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", _OWN_PLACES]
        self._sleeper = subprocess.Popen(own)
        self.holder = self._sleeper.pid
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A command on this host; what it says is appended to `log`, a file of this machine."""
        with log.open("ab") as stream:
            inside = ["nsenter", "-t", str(self.holder), "-n", "-m", *words]
            process = subprocess.Popen(
                inside,
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def ready(self) -> None:
        """Waits until /tmp is this host's own."""
        while self._mounts().count(" /tmp tmpfs ") == _mounts("self").count(" /tmp tmpfs "):
            time.sleep(0.02)

    def _mounts(self) -> str:
        return _mounts(str(self._sleeper.pid))

    def cut(self) -> None:
        """Takes the cable out."""
        _ip("link", "set", self._link, "down")

    def mend(self) -> None:
        """Puts it in again."""
        _ip("link", "set", self._link, "up")

    def processes(self) -> list[int]:
        """Of all that runs on it."""
        return [one for one in _processes(self.name) if one != self._sleeper.pid]

    def stop(self) -> None:
        """Ends what runs on it; the host stays."""
        _end(self.processes())
        for process in self._started:
            process.wait()
        self._started.clear()

    def remove(self) -> None:
        """Ends all that runs on it and removes it."""
        self.stop()
        self._sleeper.kill()
        self._sleeper.wait()
        _ip("netns", "del", self.name)


def _clear(name: str, link: str) -> None:
    """Removes what a killed process left of this name: the set's number is nobody else's now."""
    with contextlib.suppress(RuntimeError):
        _end(_processes(name))
        _ip("netns", "del", name)
    with contextlib.suppress(RuntimeError):
        _ip("link", "del", link)


def _mounts(process: str) -> str:
    return Path(f"/proc/{process}/mounts").read_text()


def _ip(*words: str) -> str:
    command = ["ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _processes(namespace: str) -> list[int]:
    return [int(line) for line in _ip("netns", "pids", namespace).split()]


def _end(processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def not_permitted() -> str | None:
    """Why hosts cannot be made here, in a sentence; None where they can."""
    for place in (sys.prefix, sys.base_prefix, __file__):
        if Path(place).resolve().is_relative_to("/tmp"):  # noqa: S108 -- the very folder
            return f"{place} lies in /tmp, which each host has for itself"
    name = f"{_PREFIX}-probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (OSError, RuntimeError) as error:
        return f"network namespaces are not permitted here: {error}"
    try:
        _ip("-n", name, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
        words = ["unshare", "-m", "sh", "-c", _OWN_PLACES.replace("exec sleep infinity", "true")]
        subprocess.run(words, capture_output=True, check=True)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return f"links between namespaces, or mounts, are not permitted here: {error}"
    finally:
        _ip("netns", "del", name)
    return None


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[list[Host]]:
    """So many hosts at one bridge, which this machine is at as well; removed with the context.

    Args:
        names: short ones, each once.

    Raises:
        RuntimeError: they cannot be made.
    """
    of = _bridge()
    made: list[Host] = []
    try:
        _ip("addr", "add", f"{_NETWORK}.{of}.254/24", "dev", f"{_BRIDGE}{of}")
        _ip("link", "set", f"{_BRIDGE}{of}", "up")
        for number, name in enumerate(names, start=1):
            made.append(Host(name, number, of))
        for host in made:
            host.ready()
        yield made
    finally:
        for host in made:
            host.remove()
        _ip("link", "del", f"{_BRIDGE}{of}")


def _bridge() -> int:
    """Makes a bridge; others may have theirs on this machine. Returns the number of the set."""
    for of in _SETS:
        try:
            _ip("link", "add", f"{_BRIDGE}{of}", "type", "bridge")
            return of
        except RuntimeError as error:
            if "File exists" not in str(error) or of == _SETS[-1]:
                raise
    raise AssertionError("the last one has raised")


def _remove_all() -> None:
    """All sets of hosts of this machine, those too that a killed `up` left behind."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if _OURS.fullmatch(name):
            _end(_processes(name))
            _ip("netns", "del", name)
    for of in _SETS:
        with contextlib.suppress(RuntimeError):
            _ip("link", "del", f"{_BRIDGE}{of}")


def _main(words: Sequence[str]) -> int:
    if list(words) == ["down"]:
        _remove_all()
        return 0
    if list(words) != ["up"]:
        print(f"error: arguments are {list(words)}, allowed: up, down", file=sys.stderr)
        return 2
    reason = not_permitted()
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    with hosts(["head", "worker-1", "worker-2", "s3"]) as made:
        for host in made:
            print(f"{host.address:15} nsenter -t {host.holder} -n -m COMMAND   # {host.name}")
        print("until Ctrl-C, or `python -m benchmarks.hosts down`", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
