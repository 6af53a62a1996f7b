"""What some tests need from outside the environment, and how CI makes sure that it is there."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


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
