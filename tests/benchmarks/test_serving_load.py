"""The load test's own arithmetic."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.serving_load import _percentile


@pytest.mark.parametrize(("share", "milliseconds"), [(50, 100), (95, 100), (98, 100), (99, 900)])
def test_percentiles_of_locusts_histogram(share: int, milliseconds: float) -> None:
    assert _percentile(Counter({900: 2, 100: 98}), share) == milliseconds
