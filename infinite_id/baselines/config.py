"""Settings of the baselines. Light: no torch, so that METHODS can name them."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DreamBoothConfig", "EditorConfig", "PhotoMakerConfig"]


@dataclass(frozen=True, slots=True)
class PhotoMakerConfig:
    """PhotoMaker (arXiv 2312.04461).

    Attributes:
        trigger: word after the class word that marks it; where a prompt lacks it, the identity's
            own class word is taken.
        merge_from: fraction of the steps, in [0, 1], that see the plain text before the identity
            is fused into it; the published demo uses 0.2.
        face_norm: length that version 2's face embedding had before it was normalised. The
            published code feeds the face backbone's raw output, ours keeps unit vectors.
    """

    trigger: str = "img"
    merge_from: float = 0.2
    face_norm: float = 22.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.merge_from <= 1.0:
            raise ValueError(f"merge_from is {self.merge_from}, allowed: 0 to 1")
        if not self.trigger.strip():
            raise ValueError(f"trigger is {self.trigger!r}, allowed: a word")


@dataclass(frozen=True, slots=True)
class DreamBoothConfig:
    """DreamBooth (arXiv 2208.12242) as a LoRA, one a person.

    Attributes:
        rare_word: stands before the class word and means the person.
        prior_weight: of the prior preservation loss on class pictures; 0 switches it off.
        class_pictures: made by the base itself for that loss.
        rank: of the LoRA on the attention projections of the UNet.
        steps, learning_rate, batch_size: of the fit; AdamW.
        seed: of noise, timesteps, class pictures and the LoRA's first weights.
    """

    rare_word: str = "sks"
    prior_weight: float = 1.0
    class_pictures: int = 16
    rank: int = 8
    steps: int = 200
    learning_rate: float = 5e-4
    batch_size: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.prior_weight) or self.prior_weight < 0:
            raise ValueError(f"prior_weight is {self.prior_weight}, allowed: finite, >= 0")
        for name in ("class_pictures", "rank", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed: 1 or more")
        if not self.rare_word.strip():
            raise ValueError(f"rare_word is {self.rare_word!r}, allowed: a word")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, allowed: above 0")


@dataclass(frozen=True, slots=True)
class EditorConfig:
    """A pipeline of diffusers that edits reference pictures.

    Attributes:
        pipelines: class names in diffusers that its folder may be of.
        guidance: the argument that takes the guidance scale.
        takes_negative: whether there is a negative prompt.
        instruction: holds {prompt}, and says that the person of the pictures is wanted.
        reference_size: side in pixels that the aligned faces are enlarged to.
        most_references: of a person, at most this many are shown.
    """

    pipelines: tuple[str, ...]
    guidance: str = "guidance_scale"
    takes_negative: bool = False
    instruction: str = "A new picture of the person in the reference photo: {prompt}"
    reference_size: int = 512
    most_references: int = 3

    def __post_init__(self) -> None:
        if "{prompt}" not in self.instruction:
            raise ValueError(f"instruction is {self.instruction!r}, allowed: one with {{prompt}}")
        for name in ("reference_size", "most_references"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed: 1 or more")
