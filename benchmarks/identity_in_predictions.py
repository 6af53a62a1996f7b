"""How much of an identity the adapter carries before any sampler: in single predictions.

A composed photo of a person is noised, and the UNet with the adapter, text inactive as in
its training, predicts the clean picture in one step: given another photo of that person, a photo
of another person, or nobody. What the first adds over the second is identity and nothing else; it
moves long before whole pictures show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.pocket_people import drawn_people, find_face
from eval.judges.facenet import FaceNet
from eval.stats import summarise
from infinite_id.base import BaseModel, load_base
from infinite_id.config import preset
from infinite_id.faces.detection import Detection, FaceError, align_face
from infinite_id.identity.encoders import IdentityEncoder, load_identity_encoder
from infinite_id.pocket import model as pocket
from infinite_id.training.adapter import (
    AdapterBatch,
    AdapterTraining,
)
from infinite_id.training.captions import draw_description
from infinite_id.training.world import compose
from infinite_id.types import Identity
from infinite_id.weights.adapter_file import load_adapter

__all__ = ["run"]

_GIVEN = ("right", "wrong", "nobody")


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Predicts and compares.

    Args:
        arguments: people, split (theirs: "test"; "train" and "validation" show what is learnt by
            heart), timesteps (each in 0..999), threads.

    Returns:
        For each timestep and network (SFace, which conditions; FaceNet, which training never
        saw): the mean cosine of the predicted face to other photos of the person, given the
        right person, a wrong one, nobody; right minus wrong with its 95 % interval
        over people; and the cosine of the picture as the autoencoder gives it back.
    """
    torch.set_num_threads(arguments["threads"])
    family = preset("pocket")
    encoder, judge, base = load_identity_encoder(family.encoders), FaceNet(), load_base(family)
    rng = np.random.default_rng(6)
    photos: list[NDArray[np.uint8]] = []
    faces: list[Detection] = []
    people: list[Identity] = []
    references: dict[str, list[NDArray[np.float32]]] = {"sface": [], "facenet": []}
    for person in drawn_people(arguments["people"], encoder.faces, arguments["split"]):
        shown, given, other = person.portraits
        description = replace(draw_description(rng), style="photo")
        photo = compose(shown, description, rng, pocket.shipped_size()).image
        try:
            face = find_face(photo, encoder.faces, select="single")
        except FaceError:
            continue
        photos.append(photo)
        faces.append(face)
        people.append(Identity(str(person.index), (given.aligned,), encoder.embed([given.aligned])))
        references["sface"].append(encoder.embed([other.aligned]).face)
        references["facenet"].append(judge.embed([other.image], [other.detection])[0])
    latents = base.encode_pictures(photos)
    model = _training(base)
    wanted = {name: np.stack(vectors) for name, vectors in references.items()}
    figures: dict[str, float] = {"people": float(len(people))}
    for name, own in _features(base.decode(latents), faces, encoder, judge).items():
        figures[f"autoencoder/{name}"] = float((own * wanted[name]).sum(axis=1).mean())
    for timestep in arguments["timesteps"]:
        cosines: dict[str, dict[str, NDArray[np.float32]]] = {}
        for who in _GIVEN:
            made = base.decode(_predict(model, latents, people, who, timestep))
            for name, own in _features(made, faces, encoder, judge).items():
                cosines.setdefault(name, {})[who] = (own * wanted[name]).sum(axis=1)
        for name, by in cosines.items():
            prefix = f"t{timestep}/{name}"
            figures |= {f"{prefix}_{who}": float(by[who].mean()) for who in _GIVEN}
            keys = [one.identity_id for one in people]
            found = summarise(by["right"] - by["wrong"], keys)
            figures |= {
                f"{prefix}_prediction_margin": found.mean,
                f"{prefix}_prediction_margin_low": found.low,
                f"{prefix}_prediction_margin_high": found.high,
            }
    return figures


def _training(base: BaseModel) -> AdapterTraining:
    """The shipped adapter on the shipped base, as `AdapterTraining` runs it."""
    path = pocket.adapter_path("infinite_id")
    if path is None:
        raise ValueError("the pocket model is untrained, allowed: trained weights")
    adapter, _ = load_adapter(path, preset("pocket").adapter, base.unet)
    scheduler = base.pipeline.scheduler
    model = AdapterTraining(
        base.unet, adapter, scheduler.alphas_cumprod, scheduler.config.prediction_type
    )
    return model.eval()


def _predict(
    model: AdapterTraining, latents: Tensor, people: Sequence[Identity], who: str, timestep: int
) -> Tensor:
    """(B, C, h, w): the clean latents that one prediction stands for, the same noise each time."""
    # Each gets the one before.
    shift = 1 if who == "wrong" else 0
    embeddings = [people[number - shift].embedding for number in range(len(people))]
    size = float(pocket.shipped_size())
    generator = torch.Generator().manual_seed(timestep)
    batch = AdapterBatch(
        latents=latents,
        face=torch.from_numpy(np.stack([one.face for one in embeddings])),
        clip=torch.from_numpy(np.stack([one.clip for one in embeddings])).float(),
        keep=torch.full((len(people),), who != "nobody"),
        noise=torch.randn(latents.shape, generator=generator),
        timesteps=torch.full((len(people),), timestep),
        time_ids=torch.tensor([[size, size, 0, 0, size, size]]).expand(len(people), -1),
    )
    clean: list[Tensor] = []

    def keep(predicted: Tensor) -> Tensor:
        clean.append(predicted)
        return predicted.new_zeros(())

    with torch.no_grad():
        model(batch, keep)
    return clean[0]


def _features(
    pictures: Sequence[NDArray[np.uint8]],
    faces: Sequence[Detection],
    encoder: IdentityEncoder,
    judge: FaceNet,
) -> dict[str, NDArray[np.float32]]:
    """Unit vectors of the faces where the photo had them: a blurred one is not detected."""
    crops = [align_face(p, f.landmarks) for p, f in zip(pictures, faces, strict=True)]
    return {
        "sface": np.stack([encoder.embed([crop]).face for crop in crops]),
        "facenet": judge.embed(list(pictures), list(faces)),
    }
