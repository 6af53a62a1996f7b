"""A ControlNet beside the two streams: what it adds to the UNet's features, row by row.

Its rows are those of the UNet's call that it acts on: of both streams, or of the text streams alone
(2 G in place of 2 (G + N) with guidance). Each row has its own picture, scale and range of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.control_image import ControlImage
from infinite_id.sampler.conditioning import Phase

__all__ = ["Control"]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a phase that the ControlNet may act on.

    Attributes:
        rows: int64 (R,) of the UNet's call.
        pictures: of each, R.
        shown: the same as a tensor (R, 3, H, W) in [0, 1].
    """

    rows: Tensor
    pictures: Sequence[ControlImage]
    shown: Tensor


class Control:
    """The ControlNet over the steps of one denoising.

    Args:
        base: whose ControlNet.
        pictures: of each latent, None for none.
        text: how many of the latents, the first ones, are the text streams'.
        time_ids: size conditioning (6,).
    """

    def __init__(
        self,
        base: BaseModel,
        pictures: Sequence[ControlImage | None],
        text: int,
        time_ids: Tensor,
    ) -> None:
        self._net, self._time_ids = base.controlnet, time_ids
        self._device, self._dtype = base.device, base.dtype
        self._pictures = [
            None if one is not None and one.streams == "text" and number >= text else one
            for number, one in enumerate(pictures)
        ]
        self._rows: dict[int, _Rows | None] = {}

    def added(
        self, step: int, steps: int, phase: Phase, rows: Tensor, timestep: Tensor
    ) -> dict[str, Any]:
        """Arguments of the UNet for one call; none where nothing acts.

        Args:
            step: from 0, of `steps`.
            phase: of the call.
            rows: its latents (B, C, h, w).
            timestep: a number.
        """
        found = self._of(phase)
        if self._net is None or found is None:
            return {}
        scales = [picture.at(step, steps) for picture in found.pictures]
        if not any(scales):
            return {}
        chosen = found.rows
        down, mid = self._net(
            rows[chosen],
            timestep,
            encoder_hidden_states=phase.hidden[chosen],
            controlnet_cond=found.shown,
            added_cond_kwargs={
                "text_embeds": phase.pooled[chosen],
                "time_ids": self._time_ids.expand(len(chosen), -1),
            },
            return_dict=False,
        )
        factor = torch.tensor(scales, device=self._device, dtype=self._dtype).view(-1, 1, 1, 1)

        def spread(features: Tensor) -> Tensor:
            if len(chosen) == len(rows):
                return features * factor
            whole = features.new_zeros(len(rows), *features.shape[1:])
            return whole.index_copy(0, chosen, features * factor)

        return {
            "down_block_additional_residuals": [spread(one) for one in down],
            "mid_block_additional_residual": spread(mid),
        }

    def _of(self, phase: Phase) -> _Rows | None:
        if id(phase) not in self._rows:
            latents = [
                number
                for block in phase.blocks
                for _ in range(phase.halves)
                for number in block.tolist()
            ]
            pictures = [self._pictures[number] for number in latents]
            given = [(row, one) for row, one in enumerate(pictures) if one is not None]
            self._rows[id(phase)] = self._shown(given) if given else None
        return self._rows[id(phase)]

    def _shown(self, given: Sequence[tuple[int, ControlImage]]) -> _Rows:
        pixels = [torch.from_numpy(one.image.copy()).permute(2, 0, 1) for _, one in given]
        shown = (torch.stack(pixels).float() / 255).to(self._device, self._dtype)
        rows = torch.tensor([row for row, _ in given], dtype=torch.int64, device=self._device)
        return _Rows(rows, [one for _, one in given], shown)
