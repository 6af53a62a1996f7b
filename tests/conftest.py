"""What all tests share, and what some need from outside the environment."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator

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


def pytest_itemcollected(item: pytest.Item) -> None:
    """Where several processes run the tests: a file stays in one, and so do all that start Ray,
    whose clusters would take each other's cores; unless a test says where it goes."""
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group("ray" if _starts_ray(item) else item.path.stem))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray come first: they wait more than they compute, and the others run
    beside them."""
    items.sort(key=lambda item: not _starts_ray(item))


def _starts_ray(item: pytest.Item) -> bool:
    return item.get_closest_marker("ray") is not None
