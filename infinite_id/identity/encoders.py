"""Face and CLIP encoders: aligned faces -> `IdentityEmbedding` (docs/method.md).

Notation: N faces; P photos of one person; T CLIP tokens; C CLIP width; D face embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPVisionModelWithProjection

from infinite_id.config import EncoderConfig
from infinite_id.faces.alignment import ALIGNED_SIZE
from infinite_id.faces.detection import FaceBackend
from infinite_id.faces.loading import load_face_backend
from infinite_id.loaded import loaded_once
from infinite_id.model_files.bases import tower_files
from infinite_id.model_files.files import ModelFiles, model_digest
from infinite_id.packages import cached_file
from infinite_id.types import IdentityEmbedding

__all__ = [
    "ClipImageEncoder",
    "IdentityEncoder",
    "load_clip_encoder",
    "load_identity_encoder",
    "null_states",
]

# Of OpenAI's CLIP; OpenCLIP and the pocket tower were trained with the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipImageEncoder:
    """Hidden states of a CLIP image tower.

    Args:
        model: the tower, moved to `device`.
        size: pixels of its square input.
        revision: names the weights.
        device: torch device.
        batch_size: faces in one forward pass.
        layer: -1 the last hidden states; -2 the penultimate ones, which IP-Adapter was trained on.
    """

    def __init__(
        self,
        model: CLIPVisionModelWithProjection,
        size: int,
        revision: str,
        *,
        device: str = "cpu",
        batch_size: int = 32,
        layer: int = -1,
    ) -> None:
        self.layer = layer
        self.model = model.eval().requires_grad_(False)
        torch.nn.Module.to(self.model, torch.device(device))
        self.size = size
        self.revision = revision if layer == -1 else f"{revision}[{layer}]"
        self.batch_size = batch_size
        self._mean = torch.tensor(CLIP_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(CLIP_STD, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float16]:
        """float16 (N, T, C), CLS token first, of uint8 (N, H, W, 3) RGB pictures."""
        parts = [
            self._forward(images[start : start + self.batch_size])
            for start in range(0, len(images), self.batch_size)
        ]
        if not parts:
            config = self.model.config
            tokens = (config.image_size // config.patch_size) ** 2 + 1
            return np.empty((0, tokens, config.hidden_size), dtype=np.float16)
        return np.concatenate(parts)

    def _forward(self, images: NDArray[np.uint8]) -> NDArray[np.float16]:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._mean.device)
        pixels = pixels.permute(0, 3, 1, 2).float() / 255
        pixels = torch.nn.functional.interpolate(
            pixels, size=(self.size, self.size), mode="bicubic", antialias=True
        ).clamp(0, 1)
        return self._states((pixels - self._mean) / self._std)

    @torch.inference_mode()
    def embed_nothing(self) -> NDArray[np.float16]:
        """float16 (T, C) of zero pixels after normalisation: nobody, in IP-Adapter's training."""
        return self._states(self._mean.new_zeros(1, 3, self.size, self.size))[0]

    def _states(self, pixels: torch.Tensor) -> NDArray[np.float16]:
        pixels = pixels.to(self.model.dtype)
        if self.layer == -1:
            states = self.model(pixel_values=pixels).last_hidden_state
        else:
            found = self.model(pixel_values=pixels, output_hidden_states=True)
            states = found.hidden_states[self.layer]
        return states.to(torch.float16).cpu().numpy()


class IdentityEncoder:
    """Both encoders of a preset.

    Args:
        faces: the conditioning face backbone.
        clip: the CLIP image tower.
    """

    def __init__(self, faces: FaceBackend, clip: ClipImageEncoder) -> None:
        self.faces = faces
        self.clip = clip
        self.revision = f"{faces.revision}+{clip.revision}"

    def embed(self, aligned_faces: Sequence[NDArray[np.uint8]]) -> IdentityEmbedding:
        """The embedding of one person, of P >= 1 faces, each uint8 (112, 112, 3) RGB.

        Raises:
            ValueError: no face, or one of another shape.
        """
        return self.embed_many([aligned_faces])[0]

    def embed_many(self, people: Sequence[Sequence[NDArray[np.uint8]]]) -> list[IdentityEmbedding]:
        """One embedding a person; the faces of all go through the networks together.

        Raises:
            ValueError: a person without a face, or a face of another shape.
        """
        for number, person in enumerate(people):
            _check_faces(number, person)
        if not people:
            return []
        stacked = np.stack([face for person in people for face in person])
        features, states = self.faces.embed(stacked), self.clip.embed(stacked)
        ends = np.cumsum([len(person) for person in people])
        return [
            self._combine(features[end - len(person) : end], states[end - len(person) : end])
            for person, end in zip(people, ends, strict=True)
        ]

    def _combine(
        self, features: NDArray[np.float32], states: NDArray[np.float16]
    ) -> IdentityEmbedding:
        mean = features.mean(axis=0)
        # Opposite embeddings of several "photos of one person" have no mean direction.
        norm = max(float(np.linalg.norm(mean)), 1e-6)
        tokens = states.reshape(-1, states.shape[-1])
        return IdentityEmbedding((mean / norm).astype(np.float32), tokens, self.revision)


def load_clip_encoder(config: EncoderConfig, *, device: str = "cpu") -> ClipImageEncoder:
    """The CLIP image tower that `config.clip` names: pocket, a folder, or a hub id; one for each
    process and device.

    Raises:
        ValueError: it is not there, not whole, or of another width; one sentence, at once.
    """
    if config.clip == "pocket":
        key: tuple = ("clip", "pocket", config.clip_layer, device)
        return loaded_once(key, lambda: _pocket_tower(config, device))
    files = tower_files(config.clip, config.clip_revision, config.clip_width)
    revision = f"clip-{model_digest(files, [''], None)}"
    key = ("clip", revision, config.clip_layer, device)
    return loaded_once(key, lambda: _tower(files, revision, config, device))


def _pocket_tower(config: EncoderConfig, device: str) -> ClipImageEncoder:
    from infinite_id.pocket.image_text import load_clip_image_encoder

    model, size, revision = load_clip_image_encoder()
    return ClipImageEncoder(model, size, revision, device=device, layer=config.clip_layer)


def _tower(
    files: ModelFiles, revision: str, config: EncoderConfig, device: str
) -> ClipImageEncoder:
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.float16
    try:
        model = CLIPVisionModelWithProjection.from_pretrained(
            config.clip if files.folder is None else files.folder,
            revision=config.clip_revision or "main",
            dtype=dtype,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"CLIP tower {config.clip} cannot be loaded: {reason}") from error
    size = int(str(model.config.image_size))
    return ClipImageEncoder(model, size, revision, device=device, layer=config.clip_layer)


def null_states(config: EncoderConfig) -> NDArray[np.float16]:
    """`ClipImageEncoder.embed_nothing` of a tower, float16 (T, C); a large tower is loaded for it
    once on each machine."""
    if config.clip == "pocket":
        return load_clip_encoder(config).embed_nothing()
    files = tower_files(config.clip, config.clip_revision, config.clip_width)
    digest = model_digest(files, [""], None)

    def build(path: Path) -> None:
        with path.open("wb") as stream:
            np.save(stream, load_clip_encoder(config).embed_nothing())

    found: NDArray[np.float16] = np.load(
        cached_file(f"null_states-{digest}{config.clip_layer}.npy", build)
    )
    return found


def load_identity_encoder(config: EncoderConfig, device: str = "cpu") -> IdentityEncoder:
    """Both encoders of a preset (`preset.encoders`).

    Args:
        config: names and widths.
        device: of the CLIP tower; on "cpu" the face backbone leaves a GPU alone, too.

    Raises:
        ValueError: the loaded networks' widths are not those of `config`.
    """
    providers = ["CPUExecutionProvider"] if torch.device(device).type == "cpu" else None
    encoder = IdentityEncoder(
        load_face_backend(config.faces, providers=providers),
        load_clip_encoder(config, device=device),
    )
    clip_width = encoder.clip.model.config.hidden_size
    if encoder.faces.face_width != config.face_width or clip_width != config.clip_width:
        raise ValueError(
            f"encoders {config.faces} and {config.clip} have widths {encoder.faces.face_width} "
            f"and {clip_width}, the configuration says {config.face_width} and {config.clip_width}"
        )
    return encoder


def _check_faces(number: int, person: Sequence[NDArray[np.uint8]]) -> None:
    shape = (ALIGNED_SIZE, ALIGNED_SIZE, 3)
    if not len(person):
        raise ValueError(f"person number {number} has no face, allowed: one or more")
    for face in person:
        if face.dtype != np.uint8 or face.shape != shape:
            raise ValueError(
                f"a face of person number {number} is {face.dtype} {face.shape}, "
                f"allowed: uint8 {shape}"
            )
