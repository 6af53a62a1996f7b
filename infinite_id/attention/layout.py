"""Which rows of a UNet batch are text stream and which identity stream.

A batch of G text groups and N requests has, with guidance, the rows

    [ text without prompt (G) | text with prompt (G) | identity without (N) | identity with (N) ]

and without guidance only those "with". An identity row takes K_t, V_t from the text row of its
own group and its own half. A batch may leave the text rows out (`text_rows` = 0) where nothing
reads them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["StreamLayout", "group_texts"]

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class StreamLayout:
    """Rows of one UNet call.

    Attributes:
        groups: text group of each request, N numbers in [0, G).
        group_count: G.
        guidance: whether every stream has its unconditional row.
        with_text: whether the text streams' rows are in the batch.
        personal: whether there are identity streams; False for the plain text-to-image model.
        device: of the index tensors.
    """

    groups: tuple[int, ...]
    group_count: int
    guidance: bool
    with_text: bool
    personal: bool
    device: torch.device

    def __post_init__(self) -> None:
        for group in self.groups:
            if not 0 <= group < self.group_count:
                raise ValueError(f"group is {group}, allowed: 0 to {self.group_count - 1}")

    @property
    def halves(self) -> int:
        """2 with guidance, else 1."""
        return 2 if self.guidance else 1

    @property
    def text_rows(self) -> int:
        """Rows of the text streams in the batch, which come first."""
        return self.halves * self.group_count if self.with_text else 0

    @property
    def identity_rows(self) -> int:
        """Rows of the identity streams in the batch, which come last."""
        return self.halves * len(self.groups) if self.personal else 0

    @property
    def rows(self) -> int:
        """Rows of the UNet batch: 2 (G + N) with guidance and text streams."""
        return self.text_rows + self.identity_rows

    @property
    def source(self) -> Tensor:
        """int64 (identity_rows,): the text row, in [0, halves * G), of each identity row."""
        halves = range(self.halves if self.personal else 0)
        rows = [half * self.group_count + group for half in halves for group in self.groups]
        return torch.tensor(rows, dtype=torch.int64, device=self.device)


def group_texts(keys: Sequence[Key]) -> tuple[list[Key], tuple[int, ...]]:
    """(distinct keys in order of appearance, the number of each one's key)."""
    distinct: dict[Key, int] = {}
    numbers = tuple(distinct.setdefault(key, len(distinct)) for key in keys)
    return list(distinct), numbers
