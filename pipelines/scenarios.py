"""Scenarios: the comparison's figures and tables, each a file of data and one run folder.

A scenario names a run (any key of the benchmark's configuration) and, where it needs them, people
derived from the given ones: mixes, steps between two people, the same photo at lower resolution;
and LoRAs that are fitted first. Everything derived is written beside the run folder and is the
same in every rerun.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infinite_id.baselines.config import DreamBoothConfig
from pipelines.benchmark import RunSummary, run_benchmark
from pipelines.plan.inputs import load_manifests
from pipelines.scenario_prompts import Scene, posed_prompts, scene_prompts, scenes_of
from pipelines.settings import BenchmarkConfig, load_config
from pipelines.tables.addresses import read_uri
from pipelines.tables.demo_people import sample_identities
from pipelines.tables.schemas import IDENTITIES, MIXES, PROVENANCE
from pipelines.tables.storage import Store

__all__ = ["LackingError", "Scenario", "load_scenario", "run_scenario", "scenario_names"]

Progress = Callable[[str, int, int], None]


class LackingError(ValueError):
    """The run has not got what a scenario needs: another scenario may do with it."""


class Scenario(BaseModel):
    """What a scenario's file says besides its run.

    `people`: the first people of the manifest only. `variants`: factors by which each photo is
    made smaller and large again. `mix`: pairs of people are stacked, or walked between in `steps`
    steps. `dreambooth`: weights of prior preservation, one fit each; `fit_steps` of each.
    `prompts`, `styles`: manifests in place. `poses`: yaw, pitch and roll in degrees: each prompt is
    held to each by a ControlNet, which the run must name. `scenes`: so many of the last people
    whose photos show a face are not shown; the others are put in their place in these photos, with
    each of `strengths`. `samples`: on the pocket model the shipped synthetic people, unless the run
    names others. `across`: columns of the picture grid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    note: str = ""
    across: Literal["method", "style", "prompt_id", "identity_id"] | None = None
    x_title: str = ""
    people: int | None = Field(None, ge=1)
    variants: list[int] | None = None
    mix: Literal["stack", "interpolate"] | None = None
    steps: int = Field(11, ge=2)
    pairs: int = Field(6, ge=1)
    dreambooth: list[float] | None = None
    fit_steps: int = Field(200, ge=1)
    prompts: list[dict[str, Any]] | None = None
    styles: list[dict[str, Any]] | None = None
    poses: list[tuple[float, float, float]] | None = None
    scenes: int | None = Field(None, ge=1)
    strengths: list[float] = Field([0.8], min_length=1)
    samples: bool = False


def scenario_names(folder: Path) -> list[str]:
    """Names of the scenarios in a folder of YAML files, in the order of their files' numbers."""
    found = []
    for path in folder.glob("*.yaml"):
        values = yaml.safe_load(path.read_text("utf-8"))
        if isinstance(values, dict) and "scenario" in values:
            found.append((values.get("order", 99), path.stem))
    return [name for _, name in sorted(found)]


def load_scenario(folder: Path, name: str) -> tuple[Scenario, dict[str, Any]]:
    """A scenario and the configuration of its run.

    Raises:
        ValueError: unknown name (the message lists the known ones), or a wrong key in the file.
    """
    known = scenario_names(folder)
    if name not in known:
        raise ValueError(f"scenario is {name!r}, allowed: {', '.join(known)}, all")
    values = yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))
    try:
        return Scenario(**values["scenario"]), dict(values.get("run") or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"scenario {name}: {key}: {first['msg']}") from None


def run_scenario(
    scenario: Scenario,
    run: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *,
    name: str,
    command: str = "",
    progress: Progress = lambda phase, done, total: None,
) -> tuple[RunSummary, BenchmarkConfig]:
    """Derives, fits, runs; `scenario.json` in the run folder says what it was.

    Args:
        scenario, run: of `load_scenario`.
        overrides: configuration values on top, `output` among them; None overrides nothing.
        name: of the scenario.
        command: the command line, for the record.
        progress: see `run_benchmark`.

    Raises:
        LackingError: no ControlNet, or too few people; nothing is run then.
        ValueError: wrong input; see `run_benchmark` too.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    config = load_config(None, **{**run, **given})
    if scenario.poses is not None and config.controlnet is None:
        raise LackingError(
            "controlnet is None, allowed with a scenario of poses: --set controlnet=ADDRESS, a "
            "folder or a hub id"
        )
    fits = scenario.dreambooth is not None and "dreambooth" not in config.weights
    if fits and not Store(config.output, config.storage_options).is_local:
        raise ValueError(
            f"output of scenario {name} is {config.output!r}, allowed: a folder on a disk, where "
            "its LoRAs are fitted beside it, or --weights dreambooth=FOLDER"
        )
    inputs = Store(f"{config.output}-inputs", config.storage_options)
    changes: dict[str, Any] = {}
    for kind in ("prompts", "styles"):
        rows = getattr(scenario, kind)
        if rows is not None and kind not in given:
            inputs.write_bytes(f"{kind}.yaml", yaml.safe_dump(rows).encode())
            changes[kind] = f"{inputs.address}/{kind}.yaml"
    # Their 64 pixels are too few for any other model.
    if scenario.samples and config.identities is None and config.family().base == "pocket":
        inputs.write_table("samples.parquet", sample_identities())
        changes["identities"] = f"{inputs.address}/samples.parquet"
    config = config.model_copy(update=changes)
    manifests = load_manifests(config)
    identities = manifests.identities
    rows = manifests.prompts.to_pylist()
    scenes: list[Scene] = []
    if scenario.scenes is not None:
        count = identities.num_rows
        scenes, identities, reason = scenes_of(identities, scenario.scenes, config)
        if len(scenes) < scenario.scenes:
            raise LackingError(
                f"scenario {name} has {count} people, allowed: more than {scenario.scenes} whose "
                f"photos are its scenes{'; ' + reason if reason else ''}"
            )
        rows = scene_prompts(rows, scenes, scenario.strengths, inputs)
    if scenario.poses is not None:
        rows = posed_prompts(rows, scenario.poses, config)
    if scenario.scenes is not None or scenario.poses is not None:
        inputs.write_bytes("prompts.yaml", yaml.safe_dump(rows).encode())
        # What was chosen among the prompts has other names now.
        changes |= {"prompts": f"{inputs.address}/prompts.yaml", "prompt_ids": None}
    if scenario.people is not None:
        identities = identities.slice(0, scenario.people)
    variants: dict[str, dict[str, Any]] = {}
    if scenario.variants is not None:
        identities, variants = _variants(identities, scenario.variants, config)
    if scenario.mix is not None and config.mixes is None:
        inputs.write_table("mixes.parquet", _mixes(identities, scenario))
        changes["mixes"] = f"{inputs.address}/mixes.parquet"
    if scenario.people is not None or scenario.scenes is not None or variants:
        inputs.write_table("identities.parquet", identities)
        changes["identities"] = f"{inputs.address}/identities.parquet"
    config = config.model_copy(update=changes)
    if fits:
        config = _fitted(config, scenario, progress)
    # The photo as it is judges what was made from coarser ones.
    judged_by = {key: one["of"] for key, one in variants.items() if one["of"] != key}
    summary = run_benchmark(config, command=command, progress=progress, judged_by=judged_by)
    record = _record(scenario, name, variants, scenes)
    Store(config.output, config.storage_options).write_bytes(
        "scenario.json", json.dumps(record, indent=2).encode()
    )
    return summary, config


def _record(
    scenario: Scenario, name: str, variants: Mapping[str, Any], scenes: Sequence[Scene]
) -> dict[str, Any]:
    """Content of scenario.json; consent, licence and source of whose photos the scenes are."""
    record = {**scenario.model_dump(), "name": name, "variants": variants}
    if scenes:
        record["scene_people"] = [
            {key: one.person[key] for key in ("identity_id", *PROVENANCE)}
            | {"image": Scene.name(number)}
            for number, one in enumerate(scenes)
        ]
    return record


def _fitted(config: BenchmarkConfig, scenario: Scenario, progress: Progress) -> BenchmarkConfig:
    from pipelines.training.dreambooth import fit_people

    folder = Store(f"{config.output}-loras", config.storage_options).root
    for weight in scenario.dreambooth or ():
        fit = replace(DreamBoothConfig(), prior_weight=weight, steps=scenario.fit_steps)
        fit_people(config, folder, fit, progress=lambda _, n, of: progress("LoRAs", n, of))
    return config.model_copy(update={"weights": {**config.weights, "dreambooth": folder}})


def _variants(
    identities: pa.Table, factors: list[int], config: BenchmarkConfig
) -> tuple[pa.Table, dict[str, dict[str, Any]]]:
    """Each person once a factor; what each one is a variant of.

    Raises:
        ValueError: without the factor 1, the photo as it is, which judges.
    """
    if 1 not in factors:
        raise ValueError(
            f"variants are {factors}, allowed: with 1, the photo as it is, which judges"
        )
    rows, known = [], {}
    for person in identities.to_pylist():
        key = person["identity_id"]
        for factor in factors:
            name = key if factor == 1 else f"{key}_x{factor}"
            photos = person["photos"]
            if factor != 1:
                data = [p["bytes"] or read_uri(p["uri"], config.storage_options) for p in photos]
                photos = [{"uri": None, "bytes": _coarse(photo, factor)} for photo in data]
            rows.append({**person, "identity_id": name, "photos": photos})
            known[name] = {"of": key, "x": factor}
    return pa.Table.from_pylist(rows, schema=IDENTITIES), known


def _coarse(photo: bytes, factor: int) -> bytes:
    """The photo made smaller by a factor and large again, PNG: as many pixels, less in them."""
    from infinite_id.faces.photos import decode_photo

    image = Image.fromarray(decode_photo(photo))
    small = (max(1, image.width // factor), max(1, image.height // factor))
    coarse = image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    coarse.save(stream, "PNG")
    return stream.getvalue()


def _mixes(identities: pa.Table, scenario: Scenario) -> pa.Table:
    """Mixes of the people taken in pairs.

    Raises:
        ValueError: fewer than two people.
    """
    people = identities["identity_id"].to_pylist()
    if len(people) < 2:
        raise ValueError(
            f"scenario {scenario.title!r} has {len(people)} people, allowed: 2 or more"
        )
    rows = []
    if scenario.mix == "stack":
        for a, b in zip(people[::2], people[1::2], strict=False):
            rows.append(_mix(f"{a}+{b}", a, 1.0, b, 1.0, "stack"))
            rows.append(_mix(f"{a}~{b}", a, 0.5, b, 0.5, "interpolate"))
    else:
        # Everybody is once A and once B; of two people the way back is the same way.
        ends = people[1:] + people[:1] if len(people) > 2 else people[1:]
        for a, b in list(zip(people, ends, strict=False))[: scenario.pairs]:
            for step in range(scenario.steps):
                weight = step / (scenario.steps - 1)
                rows.append(_mix(f"{a}~{b}@{weight:.2f}", a, 1 - weight, b, weight, "interpolate"))
    return pa.Table.from_pylist(rows, schema=MIXES)


def _mix(name: str, a: str, weight_a: float, b: str, weight_b: float, mode: str) -> dict[str, Any]:
    parts = [{"identity_id": a, "weight": weight_a}, {"identity_id": b, "weight": weight_b}]
    return {"mix_id": name, "parts": parts, "mode": mode}
