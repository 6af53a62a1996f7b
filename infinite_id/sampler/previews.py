"""Unfinished pictures: the clean latents that a step predicts, decoded small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.types import PreviewHook

__all__ = ["preview_callback"]

# Latent pixels of the longer side: larger ones are averaged first, so that a preview of a 1024 px
# picture costs a sixteenth of decoding it.
_MOST = 32


def preview_callback(
    hook: PreviewHook | None, base: BaseModel, positions: Sequence[int]
) -> Callable[[int, int, Tensor], None] | None:
    """on_clean(step, steps, clean (N, C, h, w)) that shows what the hook wants to see.

    Args:
        hook: None for nothing.
        base: decodes.
        positions: of the N rows among the caller's requests.
    """
    if hook is None:
        return None

    def on_clean(step: int, steps: int, clean: Tensor) -> None:
        wanted = set(hook.wanted(step, steps))
        rows = [row for row, position in enumerate(positions) if position in wanted]
        if not rows:
            return
        chosen = clean[rows]
        factor = -(-max(chosen.shape[-2:]) // _MOST)
        for row, picture in zip(rows, base.decode(F.avg_pool2d(chosen, factor)), strict=True):
            hook.show(positions[row], step, picture)

    return on_clean
