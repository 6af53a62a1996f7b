"""The digest that stands for an embedding in sample ids; light: no torch, no ray."""

from __future__ import annotations

import hashlib

import numpy as np

from infinite_id.types import IdentityEmbedding

__all__ = ["embedding_digest"]


def embedding_digest(embedding: IdentityEmbedding) -> str:
    """32 hex digits of the face vector (float32), the CLIP tokens (float16) and the revision."""
    digest = hashlib.blake2b(embedding.face.astype("<f4").tobytes(), digest_size=16)
    digest.update(np.ascontiguousarray(embedding.clip, dtype="<f2").tobytes())
    digest.update(embedding.revision.encode())
    return digest.hexdigest()
