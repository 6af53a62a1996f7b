"""What work can be left out, and what it costs: speed against quality, setting by setting.

All settings draw the same pictures of held-out synthetic people, batch by batch in turns, so that
a busy machine slows all of them alike. Each is compared with the whole sampler in pairs of equal
person, prompt and seed; FaceNet judges people, the pocket scorer texts and styles.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pocket_people import JudgedPerson, synthetic_people
from benchmarks.pocket_quality import Case, Picture, cases_of, measure
from eval.judges.facenet import FaceNet
from eval.judges.pocket_score import PocketImageText
from eval.stats import paired_difference
from infinite_id.config import FusionConfig, Preset, SamplerConfig, preset, profiled
from infinite_id.factories import fusion_of
from infinite_id.generator import StreamGenerator
from infinite_id.identity.encoders import load_identity_encoder
from infinite_id.methods import METHODS, load_generators
from infinite_id.pocket import model as pocket

__all__ = ["run", "with_setting"]

_WHOLE = "full"
_SCORES = ("margin", "identity", "text", "style")


def with_setting(family: Preset, setting: Mapping[str, Any]) -> Preset:
    """The preset with one setting.

    Args:
        family: the preset.
        setting: "profile", "cpu_dtype", fields of `SamplerConfig` and of `FusionConfig`.

    Raises:
        ValueError: an unknown key.
    """
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in setting.items()}
    family = profiled(family, str(values.pop("profile", _WHOLE)))
    family = replace(family, cpu_dtype=str(values.pop("cpu_dtype", family.cpu_dtype)))
    parts = {"sampler": SamplerConfig, "fusion": FusionConfig}
    for part, kind in parts.items():
        own = {f.name: values.pop(f.name) for f in fields(kind) if f.name in values}
        family = replace(family, **{part: replace(getattr(family, part), **own)})
    if values:
        known = ["profile", "cpu_dtype", *(f.name for kind in parts.values() for f in fields(kind))]
        raise ValueError(f"setting has {', '.join(values)}, allowed: {', '.join(known)}")
    return family


def run(arguments: Mapping[str, Any]) -> dict[str, float]:
    """Draws all pictures with each setting, and measures.

    Args:
        arguments: people, split ("test"; "validation" for choosing), prompts (each person's),
            method (on the two-stream sampler), settings (name -> see `with_setting`), steps and
            guidance_scale of the whole sampler, batch_size, threads.

    Returns:
        By setting: images_per_second, speed (how many times the whole sampler's, median over the
        batches), face, and of margin,
        identity, text and style the mean, and what is lost against the whole sampler with its 95 %
        interval over people (`_lost`, `_lost_low`, `_lost_high`; above 0 is a loss); pixels: mean
        absolute difference to the whole sampler's picture, in [0, 1].

    Raises:
        ValueError: an unknown setting, or a method without such settings.
    """
    torch.set_num_threads(arguments["threads"])
    own = preset("pocket")
    steps, scale = arguments["steps"], arguments["guidance_scale"]
    own = replace(
        own, sampler=replace(own.sampler, num_inference_steps=steps, guidance_scale=scale)
    )
    settings = {_WHOLE: {}, **arguments["settings"]}
    generators = _generators(arguments["method"], own, settings)
    encoder, judge = load_identity_encoder(own.encoders), FaceNet()
    people = synthetic_people(arguments["people"], encoder, judge, arguments["split"])
    cases = cases_of(people, arguments)
    pictures, seconds = _in_turns(generators, cases, people, arguments["batch_size"])
    scorer = PocketImageText()
    tables = {
        name: measure(made, cases, people, encoder.faces, judge, scorer)
        for name, made in pictures.items()
    }
    figures: dict[str, float] = {"trained": float(pocket.is_trained())}
    names = [str(case.person) for case in cases]
    for name, table in tables.items():
        figures[f"{name}/images_per_second"] = len(cases) / float(seconds[name].sum())
        figures[f"{name}/speed"] = float(np.median(seconds[_WHOLE] / seconds[name]))
        figures[f"{name}/face"] = float(table["face"].mean())
        for score in _SCORES:
            figures[f"{name}/{score}"] = float(np.nanmean(table[score]))
            if name != _WHOLE:
                lost = paired_difference(tables[_WHOLE][score], table[score], names)
                figures[f"{name}/{score}_lost"] = lost.mean
                figures[f"{name}/{score}_lost_low"] = lost.low
                figures[f"{name}/{score}_lost_high"] = lost.high
        if name != _WHOLE:
            far = np.stack(pictures[_WHOLE]) / 255 - np.stack(pictures[name]) / 255
            figures[f"{name}/pixels"] = float(np.abs(far).mean())
    return figures


def _generators(
    method: str, own: Preset, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, StreamGenerator]:
    generators = {}
    loaded: dict[str, StreamGenerator] = {}
    for name, setting in settings.items():
        family = with_setting(own, setting)
        if family.cpu_dtype not in loaded:
            made = load_generators([method], family)[method]
            if not isinstance(made, StreamGenerator):
                raise ValueError(f"method is {method!r}, allowed: one on the two-stream sampler")
            loaded[family.cpu_dtype] = made
        generators[name] = loaded[family.cpu_dtype].configured(
            fusion_of(METHODS[method], family), family.sampler
        )
    return generators


def _in_turns(
    generators: Mapping[str, StreamGenerator],
    cases: Sequence[Case],
    people: Sequence[JudgedPerson],
    batch_size: int,
) -> tuple[dict[str, list[Picture]], dict[str, NDArray]]:
    """By setting: pictures, and the seconds of each batch."""
    identities = {str(number): one.identity for number, one in enumerate(people)}
    pictures: dict[str, list[Picture]] = {name: [] for name in generators}
    seconds: dict[str, list[float]] = {name: [] for name in generators}
    for start in range(0, len(cases), batch_size):
        # The generator's own steps and guidance, not the request's.
        part = [
            replace(case.request, num_inference_steps=None, guidance_scale=None)
            for case in cases[start : start + batch_size]
        ]
        for name, generator in generators.items():
            begin = time.perf_counter()
            made = generator.generate(part, identities)
            seconds[name].append(time.perf_counter() - begin)
            pictures[name] += [one.image for one in made]
    return pictures, {name: np.array(each) for name, each in seconds.items()}
