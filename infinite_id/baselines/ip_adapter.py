"""IP-Adapter (arXiv 2308.06721): decoupled cross-attention, trained with text.

The two-stream sampler without fusion and without normalisation computes just that:
`Attn(Q, K'_id, V'_id) + Attn(Q, K_t, V_t)` in every cross-attention layer and nothing in
self-attention. So every batch row has its own identity here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from infinite_id.base import BaseModel
from infinite_id.config import Preset
from infinite_id.factories import infinite_id
from infinite_id.generator import InfiniteIdGenerator
from infinite_id.methods import MethodSpec
from infinite_id.sampler.batch import StreamBatch
from infinite_id.types import GenerationRequest, Generator, Identity

__all__ = ["ImageTokenGenerator", "ip_adapter", "ip_adapter_face"]


class ImageTokenGenerator(InfiniteIdGenerator):
    """Conditions on CLIP image tokens alone: the face embedding is zero, as in its training."""

    def _batch(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> StreamBatch:
        return super()._batch(requests, {k: _faceless(one) for k, one in identities.items()})


def _faceless(identity: Identity) -> Identity:
    embedding = identity.embedding
    return replace(identity, embedding=replace(embedding, face=np.zeros_like(embedding.face)))


def ip_adapter(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """Image tokens alone; weights `preset.weights["ip_adapter"]`, the preset's adapter where it is
    a public plus-face file, or the pocket's own.

    A factory of METHODS; `spec.config` is a `FusionConfig` without fusion.

    Raises:
        ValueError: also: weights that read the face embedding, which would be nobody's.
    """
    made = _made(spec, preset, base)
    kind = getattr(made.adapter, "kind", "plus_face")
    if kind != "plus_face":
        raise ValueError(
            f"method {spec.title!r} reads image tokens alone, its weights are {kind}, "
            "allowed: plus_face weights, or the method ip_adapter_face"
        )
    return ImageTokenGenerator(
        made.base,
        made.adapter,
        made.fusion,
        made.sampler,
        made.revision,
        clip_tokens=preset.encoders.clip_tokens,
    )


def ip_adapter_face(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """Face and image tokens; weights `preset.weights["ip_adapter_face"]`, a public plus-face or
    FaceID file (`infinite_id.weights.public_adapters`), the preset's adapter where it is one, or
    the pocket adapter that was trained with text.

    A factory of METHODS; `spec.config` is a `FusionConfig` without fusion.
    """
    return _made(spec, preset, base)


def _made(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> InfiniteIdGenerator:
    made = infinite_id(spec, preset, base)
    if not isinstance(made, InfiniteIdGenerator):
        raise TypeError(f"method {spec.title!r} made a {type(made).__name__}")
    return made
