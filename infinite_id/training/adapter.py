"""Identity-enhanced training (arXiv 2403.11781), for any base of SDXL's architecture.

`L = E || target - f_theta(z_t, t, c_id) ||^2`, target the noise eps or the velocity v as the
base's scheduler predicts. Only the mappers and the image projections W'_k, W'_v are trained. Text
cross-attention is inactive: no text enters, not even as zeros. With `text_active` the text takes
part as it does in IP-Adapter's training: the paper's ablation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from infinite_id.attention.fusion import KeyValue
from infinite_id.attention.processors import (
    StreamContext,
    cross_attention_layers,
    stream_processors,
)
from infinite_id.config import FusionConfig
from infinite_id.identity.adapter import IdentityAdapter

__all__ = [
    "AdapterBatch",
    "AdapterTraining",
    "clean_latents",
    "diffusion_loss",
    "noisy_and_target",
    "snr_weights",
]


@dataclass(frozen=True, slots=True)
class AdapterBatch:
    """B training pairs: the identity of one photo, the latents of another.

    Attributes:
        latents: (B, C, h, w), of the target photo, scaled as the UNet expects.
        face: (B, face_width), of the identity photo.
        clip: (B, T, clip_width), of the identity photo.
        keep: bool (B,), False: the null identity (zero embeddings) instead.
        noise: (B, C, h, w), standard normal.
        timesteps: int64 (B,).
        time_ids: (B, 6), SDXL's size conditioning.
        text: (B, L, D), None unless text is active.
        pooled: (B, P), None unless text is active.
    """

    latents: Tensor
    face: Tensor
    clip: Tensor
    keep: Tensor
    noise: Tensor
    timesteps: Tensor
    time_ids: Tensor
    text: Tensor | None = None
    pooled: Tensor | None = None


class AdapterTraining(nn.Module):
    """Base (frozen) and adapter (trained) as one module with a scalar output, fit for DDP.

    Args:
        unet: of the base; frozen here, and its attention processors replaced for good.
        adapter: trained.
        alphas: float (T,), the noise schedule's cumulative products.
        prediction: "epsilon" or "v_prediction".
        text_active: text cross-attention takes part.
        snr_gamma: min-SNR weighting's bound; None for equal weights.
        region: weights of places, see `diffusion_loss`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        adapter: IdentityAdapter,
        alphas: Tensor,
        prediction: str,
        *,
        text_active: bool = False,
        snr_gamma: float | None = None,
        region: Tensor | None = None,
    ) -> None:
        super().__init__()
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction is {prediction!r}, allowed: epsilon, v_prediction")
        base: Any = unet
        self.unet = base.requires_grad_(False)
        self.adapter = adapter
        self.prediction, self.text_active, self.snr_gamma = prediction, text_active, snr_gamma
        self.alphas: Tensor
        self.register_buffer("alphas", alphas.float(), persistent=False)
        self.region: Tensor | None
        self.register_buffer("region", region, persistent=False)
        self.layers = cross_attention_layers(unet)
        self.fusion = FusionConfig(fusion="none", text_cross_attention=text_active)
        unet.set_attn_processor(stream_processors(unet))
        config = unet.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        self.pooled_width = int(pooled)

    def forward(
        self, batch: AdapterBatch, on_clean: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """The mean loss of the batch, a scalar.

        Args:
            batch: pairs.
            on_clean: of the clean latents (B, C, h, w) that the prediction stands for; what it
                gives is added to the loss. None: the paper's loss alone.

        Raises:
            ValueError: text is active and the batch has none.
        """
        size = batch.latents.shape[0]
        keep = batch.keep.to(batch.face.dtype)
        tokens = self.adapter.projector(
            batch.face * keep[:, None], batch.clip * keep[:, None, None]
        )
        if self.text_active:
            if batch.text is None or batch.pooled is None:
                raise ValueError("text is active and the batch has text None, allowed: embeddings")
            hidden, pooled = batch.text, batch.pooled
            texts = self._text_key_values(hidden)
        else:
            # The UNet's interface wants a tensor; no layer reads it.
            hidden = batch.latents.new_zeros(size, 1, self.unet.config.cross_attention_dim)
            pooled = batch.latents.new_zeros(size, self.pooled_width)
            texts = None
        streams = StreamContext(
            fusion=self.fusion,
            text_rows=0,
            source=torch.arange(size, device=batch.latents.device),
            text=texts,
            identity=self.adapter.image(tokens),
        )

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.unet(
                noisy,
                timesteps,
                encoder_hidden_states=hidden,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": batch.time_ids},
                cross_attention_kwargs={"streams": streams},
            ).sample

        noisy, target = noisy_and_target(
            batch.latents, batch.noise, batch.timesteps, self.alphas, self.prediction
        )
        weights = snr_weights(self.alphas[batch.timesteps], self.prediction, self.snr_gamma)
        predicted = predict(noisy, batch.timesteps)
        loss = diffusion_loss(predicted, target, weights, self.region)
        if on_clean is None:
            return loss
        alpha = self.alphas[batch.timesteps]
        return loss + on_clean(clean_latents(noisy, predicted.float(), alpha, self.prediction))

    def _text_key_values(self, hidden: Tensor) -> list[KeyValue]:
        layers = [self.unet.get_submodule(name) for name in self.layers]
        return [KeyValue(layer.to_k(hidden), layer.to_v(hidden)) for layer in layers]


def noisy_and_target(
    latents: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor, prediction: str
) -> tuple[Tensor, Tensor]:
    """`z_t = sqrt(a) z + sqrt(1 - a) eps`, and eps or `v = sqrt(a) eps - sqrt(1 - a) z`.

    Args:
        latents, noise: (B, C, h, w).
        timesteps: int64 (B,).
        alphas: (T,), cumulative products.
        prediction: "epsilon" or "v_prediction".
    """
    alpha = alphas[timesteps].view(-1, 1, 1, 1).to(latents.dtype)
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    noisy = signal * latents + sigma * noise
    return noisy, noise if prediction == "epsilon" else signal * noise - sigma * latents


def clean_latents(noisy: Tensor, predicted: Tensor, alpha: Tensor, prediction: str) -> Tensor:
    """The `z` that a prediction stands for: the inverse of `noisy_and_target`.

    Args:
        noisy, predicted: (B, C, h, w).
        alpha: (B,), cumulative products at the timesteps.
        prediction: "epsilon" or "v_prediction".
    """
    alpha = alpha.view(-1, 1, 1, 1).to(noisy.dtype)
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    if prediction == "epsilon":
        return (noisy - sigma * predicted) / signal
    return signal * noisy - sigma * predicted


def snr_weights(alpha: Tensor, prediction: str, gamma: float | None) -> Tensor:
    """min-SNR weights (Hang et al. 2023), (B,): min(SNR, gamma) / SNR, or / (SNR + 1) for v."""
    if gamma is None:
        return torch.ones_like(alpha)
    snr = alpha / (1 - alpha)
    return snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)


def diffusion_loss(
    predicted: Tensor, target: Tensor, weights: Tensor, region: Tensor | None = None
) -> Tensor:
    """Weighted mean of squared errors.

    Args:
        predicted, target: (B, C, h, w).
        weights: (B,), of the pictures.
        region: (h, w) with a mean of 1, of the places; None for equal ones.
    """
    errors = (predicted.float() - target.float()).square()
    if region is not None:
        errors = errors * region
    return (errors.flatten(1).mean(dim=1) * weights).mean()
