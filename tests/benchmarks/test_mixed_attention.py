"""The ways to compute mixed attention that the sampler does not take."""

from __future__ import annotations

import pytest

from benchmarks import mixed_attention

ARGUMENTS = {"layers": [[16, 32, 2, 3], [64, 16, 1, 2]], "rounds": 1, "threads": 1}


def test_each_way_gives_the_same_and_its_time():
    figures = mixed_attention.run(ARGUMENTS)
    assert figures["concatenated_ratio"] == 1
    assert figures["16x32/merged_seconds"] > 0
    assert figures["64x16/buffer_seconds"] > 0


def test_a_way_that_gives_something_else_is_told(monkeypatch):
    monkeypatch.setitem(mixed_attention._WAYS, "merged", lambda query, *_: query)
    with pytest.raises(RuntimeError, match="merged differs from the sampler's way at 16x32"):
        mixed_attention.run(ARGUMENTS)
