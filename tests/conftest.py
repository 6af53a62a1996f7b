"""What all tests share, and what some need from outside the environment."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Before torch is imported: threads of small tensors wait for each other more than they compute,
# and beside another busy process that takes twenty times as long. Jobs set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's processes would stand behind the tests that run beside them, at a niceness of 15.
os.environ.setdefault("RAY_worker_niceness", "0")
# That torchvision is not installed is meant so.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
from hypothesis import settings

# A busy machine is not a fault; the same examples each time make a failure repeatable.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _loggers_speak() -> None:
    """Libraries that set up logging in one test must not silence our loggers in the next one."""
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for name, known in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] in ("infinite_id", "eval", "pipelines", "jobs") and isinstance(
            known, logging.Logger
        ):
            known.disabled, known.propagate = False, True
            known.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """A test that gives torch more threads gives them to none after it."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != int(os.environ["OMP_NUM_THREADS"]):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def need() -> Callable[[str, bool, str], None]:
    """`need(name, available, how)`: skips where something is missing, fails where it may not be.

    CI sets INFINITE_ID_REQUIRE to the comma-separated names that have to be there, so that a test
    cannot be skipped there unseen.
    """

    def check(name: str, available: bool, how: str) -> None:
        if available:
            return
        message = f"{name} is not available: {how}"
        if name in os.environ.get("INFINITE_ID_REQUIRE", "").split(","):
            pytest.fail(message)
        pytest.skip(message)

    return check


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def infinite_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ended]:
    """`infinite_id(*words)`: the command in this process, which spares the imports of another."""
    from jobs import cli
    from jobs.console import console

    # Read from COLUMNS when the console is made.
    monkeypatch.setattr(console, "width", 200)

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["infinite-id", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        code = left.value.code
        # As Python has it: a text is an error.
        status = code if isinstance(code, int) else int(code is not None)
        return Ended(status, *capsys.readouterr())

    return run


_one_ray = contextlib.ExitStack()
_files_that_share_ray: set[Path] = set()


@pytest.fixture
def shared_ray() -> None:
    """One local Ray for all tests of this process that neither end it nor start it in their way.

    It has 4 logical CPUs, an object store of 100 MB, and began with an OMP_NUM_THREADS that its
    workers must not have. The first test of a file that does not ask for it ends it.
    """
    import ray

    from pipelines.run.environment import quiet
    from pipelines.run.session import ray_session

    if not ray.is_initialized():
        quiet()
        with pytest.MonkeyPatch.context() as own:
            own.setenv("OMP_NUM_THREADS", "7")
            _one_ray.enter_context(ray_session("local", num_cpus=4, object_store_bytes=100_000_000))
            assert os.environ["OMP_NUM_THREADS"] == "7", "the driver has its workers' environment"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if not (_starts_ray(item) and item.path in _files_that_share_ray):
        _one_ray.close()


def pytest_sessionfinish() -> None:
    _one_ray.close()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Where several processes run the tests: a file stays in one, and so do all that start Ray,
    whose clusters would take each other's cores; unless a test says where it goes."""
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group("ray" if _starts_ray(item) else item.path.stem))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray come first: they wait more than they compute, and the others run
    beside them. Of those the files that share one Ray come first."""
    _files_that_share_ray.update(
        item.path for item in items if "shared_ray" in getattr(item, "fixturenames", ())
    )
    items.sort(key=lambda item: (not _starts_ray(item), item.path not in _files_that_share_ray))


def _starts_ray(item: pytest.Item) -> bool:
    return item.get_closest_marker("ray") is not None
