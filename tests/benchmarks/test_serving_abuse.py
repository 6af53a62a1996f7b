"""The attacks in a short form: honest requests are answered beside each of them."""

from __future__ import annotations

import pytest

from benchmarks.serving_abuse import ATTACKS, run


@pytest.mark.timeout(280)
def test_honest_requests_are_answered_beside_every_attack():
    arguments = {"seconds": 2, "steps": 1, "connections": 30, "attacks": list(ATTACKS)}
    figures = run(arguments)
    assert figures["failed"] == 0
    # Not a time that this shares with other tests: that it was answered at all.
    assert all(figures[f"{name}_healthz_ms"] < 30_000 for name in ATTACKS)
    assert all(figures[f"{name}_tries_per_s"] > 1 for name in ATTACKS)
    assert figures["memory_growth_mb"] < 300
