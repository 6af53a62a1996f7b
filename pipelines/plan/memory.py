"""GPU memory of a generation actor, by arithmetic over shapes; nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diffusers import UNet2DConditionModel

from infinite_id.attention.processors import self_attention_layers
from infinite_id.config import Preset

__all__ = ["ActorMemory", "actor_memory", "self_attention_numbers"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# SDXL's VAE in bfloat16 takes 12.9 GB for 8 pictures of 1024 px that are decoded at once.
_DECODE_BYTES_A_PIXEL = 12.9e9 / 8 / 1024**2


@dataclass(frozen=True, slots=True)
class ActorMemory:
    """GB (10^9 bytes) of one generation actor; the UNet's activations come on top.

    Attributes:
        weights: of base and adapters.
        identities: image keys and values of a batch's people and of nobody, in all layers.
        decode: of the VAE's slice.
        text: keys and values of the text streams that `text_every` keeps between steps, where each
            picture of a batch has a text, or a seed, of its own; 0 where nothing is kept.
    """

    weights: float
    identities: float
    decode: float
    text: float = 0.0

    @property
    def most(self) -> float:
        """Of the two moments that need most: the last step, and decoding after it."""
        return self.weights + max(self.identities + self.text, self.decode)


def self_attention_numbers(unet: UNet2DConditionModel, height: int, width: int) -> int:
    """Numbers of one row's keys in all self-attention layers.

    Args:
        unet: may have no memory of its own (torch's meta device).
        height, width: of the latents.
    """
    levels = len(unet.down_blocks)
    numbers = 0
    for name in self_attention_layers(unet):
        kind, block = name.split(".")[:2]
        if kind == "mid_block":
            level = levels - 1
        else:
            level = int(block) if kind == "down_blocks" else levels - 1 - int(block)
        positions = (height >> level) * (width >> level)
        numbers += positions * unet.get_submodule(name).to_k.out_features
    return numbers


def actor_memory(
    preset: Preset,
    *,
    parameters: Iterable[int],
    widths: Iterable[int],
    batch: int,
    photos: int = 1,
    kept_numbers: int = 0,
) -> ActorMemory:
    """What an actor holds on its card.

    Args:
        preset: size, dtype, slices.
        parameters: of each network that stays on the card.
        widths: channels of every cross-attention layer of the UNet.
        batch: pictures, each of another person.
        photos: of each person.
        kept_numbers: of one row's keys that are kept between steps (`self_attention_numbers`).
    """
    size = _BYTES[preset.dtype]
    tokens = preset.adapter.face_tokens + photos * preset.encoders.clip_tokens
    keys_and_values = 2 * sum(widths) * tokens * size
    # Half precision overflows in SDXL's VAE, so float16 decodes in float32.
    wider = 1.0 if preset.dtype == "bfloat16" else 2.0
    pixels = preset.height * preset.width
    return ActorMemory(
        weights=sum(parameters) * size / 1e9,
        identities=(batch + 1) * keys_and_values / 1e9,
        decode=min(batch, preset.decode_slice) * pixels * _DECODE_BYTES_A_PIXEL * wider / 1e9,
        # Keys and values, of rows with and without guidance.
        text=batch * 2 * 2 * kept_numbers * size / 1e9,
    )
