"""A Ray session: an existing cluster by address, or a small one of this machine's own."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping

from pipelines.plan.job import job_environment
from pipelines.run.autoscaler import is_fixed
from pipelines.run.environment import WORKER_ENVIRONMENT
from pipelines.run.failures import RunFailedError
from pipelines.settings import Resources

__all__ = ["cluster_limits", "end_quietly", "on_this_machine", "ray_session"]


def _worker_environment() -> dict[str, str]:
    """`WORKER_ENVIRONMENT` but for what a submitted job sets itself: Ray refuses a variable that
    stands in both, be it with one value."""
    taken = job_environment().get("env_vars") or {}
    return {name: value for name, value in WORKER_ENVIRONMENT.items() if name not in taken}


def cluster_limits(
    now: Mapping[str, float], resources: Resources, address: str | None
) -> Mapping[str, float]:
    """CPUs and GPUs that a cluster can have, at least what it has now.

    Infinite where nobody says: an autoscaler tells its limits to no program. Those stages wait
    (`pipelines.stages.waiting`).

    Args:
        now: resources as `ray.cluster_resources()` gives them.
        resources: of the run; `cluster_cpus` and `cluster_gpus` are what the user knows, and
            without `wait_seconds` a cluster is what it is now.
        address: of the cluster, as `ray_session` takes it. One that is started here does not grow,
            nor does one that is connected and has no autoscaler.
    """
    grows = resources.wait_seconds and not on_this_machine(address) and not is_fixed()
    unknown = math.inf if grows else 0.0
    told = {"CPU": resources.cluster_cpus, "GPU": resources.cluster_gpus}
    return {
        name: max(now.get(name, 0.0), unknown if most is None else most)
        for name, most in told.items()
    }


def on_this_machine(address: str | None) -> bool:
    """Whether `ray_session` would start a cluster here."""
    return (address or os.environ.get("RAY_ADDRESS") or "local") == "local"


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    object_store_bytes: int | None = None,
) -> Iterator[Mapping[str, float]]:
    """Connects to a cluster, or starts a local one; yields its resources.

    Args:
        address: of a cluster ("auto", "ray://..." or host:port); "local" starts one here. None
            takes the cluster of the environment (a submitted job's) and else starts one here.
        num_cpus: logical CPUs of a local cluster; by default this machine's, at least 4, because
            actor pools that take every CPU never progress.
        num_gpus: of a local cluster; found by Ray by default.
        object_store_bytes: of a local cluster.

    Raises:
        ValueError: the cluster does not answer.
        RunFailedError: one does not start here; a busy machine may be too slow for it.
    """
    with _native_stderr_aside():
        yield from _session(address, num_cpus, num_gpus, object_store_bytes)


def end_quietly() -> None:
    """From now on Ray prints nothing of the tasks that it loses while its actors are ended.

    They are no failures; Ray's own log files have them.
    """
    _tell_of_tasks(False)


def _tell_of_tasks(told: bool) -> None:
    # A private name, guarded by tests/pipelines/test_ray_private_names.py: the public one,
    # `log_to_driver`, is read by `ray.init` alone. A handler of signals calls: no import of Ray.
    worker = sys.modules.get("ray._private.worker")
    if worker is not None:
        vars(worker)["_worker_logs_enabled"] = told


@contextlib.contextmanager
def _native_stderr_aside() -> Iterator[None]:
    """Takes what Ray's C++ core writes to file descriptor 2 off the terminal; its own log files
    under Ray's session folder have it too. Python's sys.stderr stays on the terminal."""
    python_stderr, terminal = sys.stderr, os.dup(2)
    with os.fdopen(os.dup(terminal), "w", buffering=1) as direct, tempfile.TemporaryFile() as aside:
        if python_stderr is sys.__stderr__:
            sys.stderr = direct
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            sys.stderr = python_stderr


def _check_answers(address: str) -> None:
    """Ray tries a dead address for minutes; a closed port is known at once."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address in ("local", "auto") or not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ValueError(
            f"no Ray cluster answers at {address}: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These environment variables inside, the former ones afterwards."""
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start(num_cpus: int, num_gpus: int | None, object_store_bytes: int | None) -> None:
    """Starts a local cluster; once more where its node did not answer within Ray's 30 seconds.

    A machine that was held up for half a minute starts it the second time.
    """
    import ray

    for last in (False, True):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises a bare Exception here
            if last or "timed out during startup" not in str(error):
                raise


def _session(
    address: str | None,
    num_cpus: int | None,
    num_gpus: int | None,
    object_store_bytes: int | None,
) -> Iterator[Mapping[str, float]]:
    import ray

    already = ray.is_initialized()
    if not already:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        _check_answers(address)
        # Takes a second, in which the driver would wait for Ray's own processes.
        library = threading.Thread(target=importlib.import_module, args=("ray.data",))
        library.start()
        sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if address == "local":
                # Not as a runtime environment: workers that Ray starts in advance have none, so it
                # would start others beside them.
                with _environment(WORKER_ENVIRONMENT):
                    _start(num_cpus or max(4, os.cpu_count() or 1), num_gpus, object_store_bytes)
            else:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": _worker_environment()},
                )
        except Exception as error:  # a node that is too slow to start is a bare Exception
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            if address == "local":
                raise RunFailedError(f"Ray did not start on this machine: {reason}") from error
            raise ValueError(f"no Ray cluster answers at {address}: {reason}") from error
        finally:
            library.join()
            # Ray's own handler ends the program on the spot, with exit code 1.
            if sigterm is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, sigterm)
    _tell_of_tasks(True)  # after `end_quietly` in this process
    import ray.data  # its import sets its loggers' levels, so they are set after it

    for name in ("ray.data", "ray.data.dataset", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        # Errors are raised, and said in a sentence; their tracebacks are in Ray's own log files.
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    try:
        yield ray.cluster_resources()
    finally:
        if not already:
            ray.shutdown()
