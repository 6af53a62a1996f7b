"""What all tests share, and what some need from outside the environment."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import settings

# A busy machine is not a fault; the same examples each time make a failure repeatable.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture
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
