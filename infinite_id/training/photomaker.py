"""Training of the PhotoMaker baseline on the pocket base: encoder, fusion and a LoRA, text active.

Loss and data are those of the other adapters; the identity enters through the class word's
embedding alone (`infinite_id.baselines.photomaker`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from infinite_id.baselines.photomaker_weights import save_photomaker, untrained_encoder
from infinite_id.config import preset
from infinite_id.pocket import model as pocket
from infinite_id.training.adapter import clean_latents, diffusion_loss, noisy_and_target
from infinite_id.training.captions import SUBJECTS

__all__ = ["PhotoMakerTraining", "class_word_positions", "export_photomaker"]

LORA_RANK = 8


class PhotoMakerTraining(nn.Module):
    """Base (frozen) with a LoRA, and the identity encoder; a scalar loss as output.

    Args:
        unet: of the base; a LoRA is added to its attention.
        alphas: float (T,), cumulative products.
        prediction: "epsilon" or "v_prediction".
        region: weights of places, see `diffusion_loss`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        alphas: Tensor,
        prediction: str,
        region: Tensor | None = None,
    ) -> None:
        super().__init__()
        base: Any = unet
        base.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            base.add_adapter(
                LoraConfig(
                    r=LORA_RANK,
                    lora_alpha=LORA_RANK,
                    target_modules=["to_q", "to_k", "to_v", "to_out.0"],
                )
            )
        self.unet = base
        # `untrained_encoder` reads two sizes of a base model, not its weights.
        encoders = SimpleNamespace(text_encoder_2=pocket.build_text_encoder(first=False))
        sizes: Any = SimpleNamespace(unet=unet, pipeline=encoders)
        width = preset("pocket").encoders.clip_width
        self.encoder = untrained_encoder(width, sizes).requires_grad_(True)
        self.prediction = prediction
        self.alphas: Tensor
        self.register_buffer("alphas", alphas.float(), persistent=False)
        self.region: Tensor | None
        self.register_buffer("region", region, persistent=False)

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        time_ids: Tensor,
        text: Tensor,
        pooled: Tensor,
        place: Tensor,
        cls: Tensor,
        on_clean: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Mean loss.

        Args:
            latents, noise: (B, C, h, w).
            timesteps: int64 (B,).
            time_ids: (B, 6).
            text, pooled: (B, L, D), (B, P).
            place: int64 (B,), position of the class word, -1 where the text was dropped.
            cls: (B, C), first token of the identity photo's image tokens.
            on_clean: as of `AdapterTraining`.
        """
        tokens = self.encoder.project(F.layer_norm(cls, cls.shape[-1:]))
        here = torch.arange(text.shape[1], device=text.device)[None] == place[:, None]
        word = (text * here[..., None]).sum(dim=1)
        fused = self.encoder.fuse(word, tokens)
        text = torch.where(here[..., None], fused[:, None], text)
        noisy, target = noisy_and_target(latents, noise, timesteps, self.alphas, self.prediction)
        predicted = self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample
        weights = torch.ones_like(timesteps, dtype=torch.float32)
        loss = diffusion_loss(predicted, target, weights, self.region)
        if on_clean is None:
            return loss
        alpha = self.alphas[timesteps]
        return loss + on_clean(clean_latents(noisy, predicted.float(), alpha, self.prediction))


def class_word_positions(ids: Tensor) -> Tensor:
    """int64 (B,): position of the first "man", "woman" or "person" in token ids (B, L).

    Raises:
        ValueError: a text has none.
    """
    tokenizer = pocket.load_tokenizer()
    words = [tokenizer(word, add_special_tokens=False).input_ids[-1] for word in SUBJECTS]
    found = torch.isin(ids, torch.tensor(words))
    if not bool(found.any(dim=1).all()):
        raise ValueError(f"a caption has no class word, allowed: one of {', '.join(SUBJECTS)}")
    return found.int().argmax(dim=1)


def export_photomaker(model: PhotoMakerTraining, path: Path, base: str) -> None:
    """Writes encoder and LoRA, half precision, as `load_photomaker` reads them."""
    lora = {
        f"unet.{name}": tensor.half()
        for name, tensor in get_peft_model_state_dict(model.unet).items()
    }
    save_photomaker(path, model.encoder.half(), lora, base)
