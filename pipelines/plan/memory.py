"""GPU memory of a generation actor, by arithmetic over shapes; nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from infinite_id.config import Preset

__all__ = ["ActorMemory", "actor_memory"]

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
    """

    weights: float
    identities: float
    decode: float

    @property
    def most(self) -> float:
        """Of the two moments that need most: the last step, and decoding after it."""
        return self.weights + max(self.identities, self.decode)


def actor_memory(
    preset: Preset,
    *,
    parameters: Iterable[int],
    widths: Iterable[int],
    batch: int,
    photos: int = 1,
) -> ActorMemory:
    """What an actor holds on its card.

    Args:
        preset: size, dtype, slices.
        parameters: of each network that stays on the card.
        widths: channels of every cross-attention layer of the UNet.
        batch: pictures, each of another person.
        photos: of each person.
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
    )
