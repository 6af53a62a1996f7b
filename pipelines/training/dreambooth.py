"""DreamBooth for many people: one LoRA each, fitted in parallel on Ray.

A person is a unit. The LoRA file itself is the mark of a finished fit: it names the settings, the
base and the photos that it was made from, so a rerun skips just those that would come out equal.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from eval.places import StorageError
from infinite_id.baselines.config import DreamBoothConfig
from infinite_id.config import Preset
from pipelines.plan.inputs import load_manifests
from pipelines.plan.weights import local_preset, run_weights
from pipelines.run.lease import Lease
from pipelines.run.session import cluster_limits, ray_session
from pipelines.run.units import unit_of
from pipelines.settings import BenchmarkConfig
from pipelines.stages.agreement import agreement
from pipelines.stages.device import check_device, torch_device
from pipelines.stages.phases import generation_gpus, generation_pool
from pipelines.stages.ray_data import apply_stage, unit_blocks
from pipelines.stages.stage import Stage, check_stages
from pipelines.stages.waiting import await_resources
from pipelines.tables.addresses import read_uri
from pipelines.tables.photo_column import name_of
from pipelines.tables.storage import Store

__all__ = ["DreamBoothActor", "FitSummary", "fit_people", "portrait"]

# Side of the square around a face, in lengths of the face's box: head, hair and shoulders.
_PORTRAIT = 2.2
_STATES = pa.schema(
    [
        ("identity_id", pa.string()),
        ("state", pa.string()),  # fitted, present, refused
        ("message", pa.string()),
        ("left_out", pa.list_(pa.string())),
        ("warning", pa.string()),
    ]
)


@dataclass(slots=True)
class _Told:
    """Of one person: photos that are lost, as "photo: reason", and that its photos do not agree."""

    left_out: list[str]
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class FitSummary:
    """What `fit_people` did: numbers of people, refusals as "identity: reason", the photos of the
    others that could not be used as "identity: photo: reason", and sentences on people whose photos
    do not agree."""

    fitted: int
    present: int
    refused: tuple[str, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: float


def fit_people(
    config: BenchmarkConfig,
    folder: str,
    fit: DreamBoothConfig,
    *,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> FitSummary:
    """Fits a LoRA for each person of the identities manifest.

    Args:
        config: `identities`, `preset`, `largest_face`, `held_out_photos`, `check_people`,
            `address` and `resources` are read; generation actors are the fitting ones.
        folder: where the LoRAs go; a path that all machines share.
        fit: settings.
        progress: told after each person.

    Raises:
        ValueError: wrong input, nobody's photos are usable, or another command fits into `folder`.
    """
    begin = time.perf_counter()
    # Of a scenario's run: its pictures are made with a ControlNet, its LoRAs are fitted without.
    family = replace(config.family(), controlnet=None, details=None)
    identities = load_manifests(config).identities
    # It stands on the base and finds faces, as text alone does.
    run_weights(family, ["text_only"], config.storage_options)
    states: list[dict[str, Any]] = []
    with Lease(Store(folder)) as lease, ray_session(config.address) as cluster:
        actors, threads = generation_pool(config, family, identities.num_rows, cluster)
        gpus = generation_gpus(config, family)
        stage = Stage(
            "dreambooth",
            DreamBoothActor,
            {
                "identities": identities,
                "folder": folder,
                "preset": family,
                "fit": fit,
                "largest": config.largest_face,
                "min_face": config.min_face,
                "max_photo_pixels": config.max_photo_pixels,
                "held_out": config.held_out_photos,
                "check": config.check_people,
                "options": config.storage_options,
                "threads": threads,
                "device": torch_device(gpus),
            },
            needs={"unit": "number of the person"},
            gives=tuple(_STATES.names),
            concurrency=actors,
            num_cpus=config.resources.generation_cpus,
            num_gpus=gpus,
        )
        limits = cluster_limits(cluster, config.resources, config.address)
        check_stages([stage], ["unit"], limits)
        await_resources([stage], config.resources.wait_seconds, limits)
        data = apply_stage(unit_blocks(np.arange(identities.num_rows)), stage)
        for rows in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            assert isinstance(rows, pa.Table)  # noqa: S101 -- narrows the type
            states.extend(rows.to_pylist())
            lease.check()
            progress("people", len(states), identities.num_rows)
    refused = tuple(
        f"{s['identity_id']}: {s['message']}" for s in states if s["state"] == "refused"
    )
    if len(refused) == len(states):
        raise ValueError(f"no photo of {len(states)} people is usable; the first: {refused[0]}")
    left_out = tuple(f"{s['identity_id']}: {photo}" for s in states for photo in s["left_out"])
    warnings = tuple(s["warning"] for s in states if s["warning"])
    count = [state["state"] for state in states].count
    seconds = time.perf_counter() - begin
    return FitSummary(count("fitted"), count("present"), refused, left_out, warnings, seconds)


class DreamBoothActor:
    """One person a call; the base and the class pictures are kept between people.

    Args:
        identities: manifest table.
        folder: of the LoRAs.
        preset: model family.
        fit: settings.
        largest: of several faces in a photo take the largest.
        min_face, max_photo_pixels: see `pipelines.settings.RunConfig`.
        held_out: last photos of each person that are not trained on.
        check: as of `pipelines.stages.agreement.agreement`.
        options: of the photos' fsspec file system.
        threads: of torch on the CPU.
        device: of torch, see `pipelines.stages.device.torch_device`.
    """

    def __init__(
        self,
        identities: pa.Table,
        folder: str,
        preset: Preset,
        fit: DreamBoothConfig,
        *,
        largest: bool = False,
        min_face: float = 20.0,
        max_photo_pixels: int = 50_000_000,
        held_out: int = 0,
        check: bool = False,
        options: Mapping[str, Any] | None = None,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        import torch

        from infinite_id.base import load_base
        from infinite_id.faces.loading import load_face_backend
        from infinite_id.faces.photos import PhotoLimits

        torch.set_num_threads(threads)
        check_device(device)
        preset = local_preset(preset, options)
        self._base = load_base(preset, device=device)
        self._faces = load_face_backend(
            preset.encoders.faces, providers=["CPUExecutionProvider"], threads=threads
        )
        self._identities, self._folder, self._preset, self._fit = identities, folder, preset, fit
        self._largest, self._held_out, self._options = largest, held_out, dict(options or {})
        self._check = check
        self._min_face, self._limits = min_face, PhotoLimits(max_pixels=max_photo_pixels)
        self._classes: dict[str, Any] = {}

    def __call__(self, units: pa.Table) -> pa.Table:
        person = self._identities.slice(unit_of(units, "dreambooth"), 1).to_pylist()[0]
        told = _Told([])
        try:
            state, message = self._person(person, told), ""
        except ValueError as error:
            state, message, told = "refused", str(error), _Told([])
        row = {"identity_id": person["identity_id"], "state": state, "message": message}
        return pa.Table.from_pylist([{**row, **asdict(told)}], schema=_STATES)

    def _person(self, person: Mapping[str, Any], told: _Told) -> str:
        from infinite_id.baselines import dreambooth as method

        photos = self._photos(person, told)
        word = person["class_word"] or "person"
        made_from = {
            "base": self._base.revision,
            "class_word": word,
            "photos": hashlib.sha256(np.stack(photos).tobytes()).hexdigest(),
        }
        path = method.lora_path(self._folder, person["identity_id"], self._fit)
        if method.is_fitted(path, self._fit, **made_from):
            return "present"
        if word not in self._classes:
            size = (self._preset.height, self._preset.width)
            self._classes[word] = method.class_latents(
                self._base, word, self._fit, self._preset.sampler, *size
            )
        latents = self._base.encode_pictures(photos)
        weights = method.fit_lora(self._base, latents, self._classes[word], word, self._fit)
        method.save_lora(path, weights, self._fit, **made_from)
        return "fitted"

    def _photos(self, person: Mapping[str, Any], told: _Told) -> list[NDArray[np.uint8]]:
        """The pictures to fit on; says in `told` what is lost or looks wrong."""
        from infinite_id.faces.photo_faces import photo_faces
        from infinite_id.faces.photos import decode_photo
        from infinite_id.faces.upright import stand_upright

        key, index = person["identity_id"], person["face_index"]
        names: list[str] = []
        crops: list[NDArray[np.uint8]] = []
        found: list[NDArray[np.uint8]] = []
        for number, photo in enumerate(person["photos"]):
            name = name_of(photo) or f"photo {number}"
            try:
                data = photo["bytes"]
                if data is None:
                    data = read_uri(photo["uri"], self._options)
                image = decode_photo(data, self._limits)
                select: Any = (
                    index if index is not None else ("largest" if self._largest else "single")
                )
                face, crop = photo_faces(
                    image, self._faces, select=select, min_face=self._min_face
                )[0]
                image, face = stand_upright(image, face)
            except (StorageError, ValueError) as error:
                told.left_out.append(f"{name}: {error}")
                continue
            names.append(name)
            crops.append(crop)
            found.append(portrait(image, face.bbox, self._preset.height, self._preset.width))
        if not found:
            raise ValueError(told.left_out[0] if told.left_out else "no photo")
        if len(found) > 1:
            features = self._faces.embed(np.stack(crops))
            agreed = agreement(key, names, features, check=self._check)
            if not agreed.kept:
                raise ValueError(agreed.odd[-1][1])
            told.warning = agreed.warning
            told.left_out.extend(f"{names[one]}: {sentence}" for one, sentence in agreed.odd)
            found = [found[number] for number in agreed.kept]
        return found[: max(1, len(found) - self._held_out)]


def portrait(
    image: NDArray[np.uint8], bbox: NDArray[np.float32], height: int, width: int
) -> NDArray[np.uint8]:
    """uint8 (height, width, 3): the part of a photo around a face, as square as it allows.

    Args:
        image: uint8 (H, W, 3).
        bbox: x0 y0 x1 y1 in pixels.
        height, width: of the result.
    """
    x0, y0, x1, y1 = (float(value) for value in bbox)
    rows, columns = image.shape[:2]
    side = min(_PORTRAIT * max(x1 - x0, y1 - y0), rows, columns)
    left = min(max((x0 + x1 - side) / 2, 0.0), columns - side)
    top = min(max((y0 + y1 - side) / 2, 0.0), rows - side)
    box = (left, top, left + side, top + side)
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(scaled)
