from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infinite_id.attention.layout import StreamLayout, group_texts

CPU = torch.device("cpu")


def test_rows_with_guidance() -> None:
    layout = StreamLayout((0, 1, 0), 2, True, True, True, CPU)
    assert (layout.text_rows, layout.identity_rows, layout.rows) == (4, 6, 10)
    # Text rows: 0 and 1 negative, 2 and 3 prompt.
    assert layout.source.tolist() == [0, 1, 0, 2, 3, 2]


def test_rows_without_guidance() -> None:
    layout = StreamLayout((0, 1, 0), 2, False, True, True, CPU)
    assert (layout.rows, layout.source.tolist()) == (5, [0, 1, 0])


def test_rows_without_text_streams_or_without_identities() -> None:
    assert StreamLayout((0, 0), 1, True, False, True, CPU).rows == 4
    plain = StreamLayout((0, 0), 1, True, True, False, CPU)
    assert (plain.rows, plain.source.tolist()) == (2, [])


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_groups_bring_every_key_back(keys: list[str]) -> None:
    distinct, numbers = group_texts(keys)
    assert [distinct[number] for number in numbers] == keys
    assert len(set(distinct)) == len(distinct)


def test_a_group_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="group is 2, allowed: 0 to 1"):
        StreamLayout((0, 2), 2, True, True, True, CPU)
