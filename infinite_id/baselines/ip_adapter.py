"""IP-Adapter (arXiv 2308.06721) with image tokens: decoupled cross-attention, text active.

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
from infinite_id.pipeline import StreamBatch
from infinite_id.types import GenerationRequest, Generator, Identity

__all__ = ["ImageTokenGenerator", "ip_adapter"]


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
    """A factory of METHODS; `spec.config` is a `FusionConfig` without fusion."""
    made = infinite_id(spec, preset, base)
    if not isinstance(made, InfiniteIdGenerator):
        raise ValueError(f"method {spec.title!r} made a {type(made).__name__}")
    return ImageTokenGenerator(
        made.base,
        made.adapter,
        made.fusion,
        made.sampler,
        made.revision,
        clip_tokens=preset.encoders.clip_tokens,
    )
