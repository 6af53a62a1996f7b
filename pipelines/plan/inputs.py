"""What a run is made from: its manifests, its model family, and the request plan they give."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from infinite_id.config import FusionKind, Preset
from infinite_id.methods import check_takes
from infinite_id.prompts import group_word
from pipelines.plan.job import job_folder
from pipelines.plan.requests import PlanSettings, RequestPlan, Subject, Text
from pipelines.plan.weights import RunWeights
from pipelines.settings import BenchmarkConfig, RunConfig
from pipelines.tables.choices import parse_seeds
from pipelines.tables.demo_people import demo_identities
from pipelines.tables.manifest import (
    Manifests,
    default_prompts,
    default_styles,
    read_manifest,
)
from pipelines.tables.mixes_and_groups import (
    as_spelled,
    group_fault,
    group_regions,
    one_spelling,
)
from pipelines.tables.people import people_notes, write_index
from pipelines.tables.prompt_pictures import COLUMNS, prompt_pictures
from pipelines.tables.rejects import reject_row, write_rejects
from pipelines.tables.schemas import EMBEDDINGS, GROUPS, MIXES, REJECTS
from pipelines.tables.storage import Store

__all__ = [
    "embedded_subjects",
    "load_manifests",
    "picture_settings",
    "request_plan",
    "styled_texts",
]

logger = logging.getLogger(__name__)


def load_manifests(config: RunConfig) -> Manifests:
    """The manifests that a configuration names, checked; defaults where it names none.

    Their notes are logged as warnings.

    Raises:
        ValueError: the file, row and column that are wrong, or an unknown prompt or style name.
    """
    options = config.storage_options
    tables = {
        "identities": demo_identities()
        if config.identities is None
        else read_manifest("identities", config.identities, options, layout=config.layout),
        "prompts": default_prompts()
        if config.prompts is None
        else read_manifest("prompts", config.prompts, options),
        "styles": default_styles()
        if config.styles is None
        else read_manifest("styles", config.styles, options),
        "mixes": MIXES.empty_table()
        if config.mixes is None
        else read_manifest("mixes", config.mixes, options),
        "groups": _groups(config),
    }
    tables["prompts"] = _choose(tables["prompts"], "prompt_id", config.prompt_ids, "prompt")
    tables["styles"] = _choose(tables["styles"], "style", config.style_names, "style")
    people = tables["identities"]["identity_id"].to_pylist()
    for kind in ("mixes", "groups"):
        tables[kind] = as_spelled(tables[kind], people)
    _check_mix_parts(tables["mixes"], tables["identities"], config.mixes)
    _check_group_keys(tables)
    if config.controlnet is None:
        _check_no_control(tables["prompts"])
    _check_takes(tables["prompts"], config.method_names, config.family().fusion.fusion)
    folder = job_folder()
    if folder is not None:
        tables["identities"] = _inside(tables["identities"], folder)
        tables["prompts"] = _inside(tables["prompts"], folder)
    manifests = Manifests(**tables)
    for note in manifests.notes:
        logger.warning("%s", note)
    return manifests


def _groups(config: RunConfig) -> pa.Table:
    """Of the benchmark alone: what a synthesis asks of its pictures is about one person."""
    if not isinstance(config, BenchmarkConfig) or config.groups is None:
        return GROUPS.empty_table()
    return read_manifest("groups", config.groups, config.storage_options)


def _inside(table: pa.Table, folder: Path) -> pa.Table:
    """Photos and pictures in a submitted job's working directory by their address in it: the next
    submission has them at another path, and goes on with the same run."""

    def inside(uri: str | None) -> str | None:
        path = (uri or "").removeprefix("file://")
        return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else uri

    rows = table.to_pylist()
    for row in rows:
        for photo in row.get("photos") or ():
            photo["uri"] = inside(photo["uri"])
        row |= {name: inside(row[name]) for name in COLUMNS if name in row}
    return pa.Table.from_pylist(rows, schema=table.schema)


def _choose(table: pa.Table, key: str, names: Sequence[str] | None, what: str) -> pa.Table:
    if names is None:
        return table
    known = table[key].to_pylist()
    for name in names:
        if name not in known:
            raise ValueError(f"{what} is {name!r}, allowed: {', '.join(known)}")
    return table.take([known.index(name) for name in names])


def _check_mix_parts(mixes: pa.Table, identities: pa.Table, where: str | None) -> None:
    people = set(identities["identity_id"].to_pylist())
    names = set(map(one_spelling, people))
    for row, mix in enumerate(mixes.to_pylist()):
        if one_spelling(mix["mix_id"]) in names:
            raise ValueError(f"{where}, row {row}: mix_id {mix['mix_id']!r} is also an identity")
        for part in mix["parts"]:
            if part["identity_id"] not in people:
                raise ValueError(
                    f"{where}, row {row}, column 'parts': {part['identity_id']!r} is no identity "
                    "of this run"
                )


def _check_group_keys(tables: Mapping[str, pa.Table]) -> None:
    """What is wrong with a group is its reject; a key that names two things is the run's end."""
    for kind, key in (("identities", "identity_id"), ("mixes", "mix_id")):
        others = set(map(one_spelling, tables[kind][key].to_pylist()))
        for row, name in enumerate(tables["groups"]["group_id"].to_pylist()):
            if one_spelling(name) in others:
                raise ValueError(f"groups, row {row}: group_id {name!r} is also one of the {kind}")


def _check_no_control(prompts: pa.Table) -> None:
    for row in prompts.to_pylist():
        for name in ("control_image", "control_keypoints"):
            if row[name] is not None:
                raise ValueError(
                    f"prompt {row['prompt_id']!r} has {name} and controlnet is None, allowed with "
                    "it: controlnet, a folder or a hub id"
                )


def _check_takes(prompts: pa.Table, methods: Sequence[str], fusion: FusionKind) -> None:
    for row in prompts.to_pylist():
        is_held = row["control_image"] is not None or row["control_keypoints"] is not None
        streams = (row["control_streams"] or "both") if is_held else None
        for method in methods:
            try:
                begins = row["image"] is not None
                check_takes(method, image=begins, streams=streams, fusion=fusion)
            except ValueError as error:
                raise ValueError(f"prompt {row['prompt_id']!r}: {error}") from None


OnRejects = Callable[[str, Iterable[str]], None]


def embedded_subjects(
    manifests: Manifests, store: Store, on_rejects: OnRejects = lambda stage, reasons: None
) -> list[Subject]:
    """The people that were embedded, and the mixes and groups all of whose people were; writes the
    index of people (`pipelines.tables.people.write_index`), and why other mixes and groups are
    rejected.

    Args:
        manifests: of the run.
        store: the run folder.
        on_rejects: called with "mixes" or "groups" and the reasons of those rejected.

    Raises:
        ValueError: nobody was; the message gives the first reason.
    """
    columns = ["identity_id", "class_word", "digest", "warning"]
    people = store.read_folder("embeddings", EMBEDDINGS, columns, name_files=True)
    write_index(store, people)
    for note in people_notes(store):
        logger.warning("%s", note)
    subjects = [
        Subject(row["identity_id"], row["class_word"] or "person", row["digest"])
        for row in people.to_pylist()
    ]
    if not subjects:
        reasons = store.read_folder("rejects", REJECTS).to_pylist()
        detail = f"; the first: {reasons[0]['message']}" if reasons else ""
        raise ValueError(f"no photo of {manifests.identities.num_rows} people is usable{detail}")
    known = {one.identity_id: one for one in subjects}
    mixes, no_mixes = _mix_subjects(manifests.mixes, known)
    groups, no_groups = _group_subjects(manifests, known)
    for stage, rejects in (("mixes", no_mixes), ("groups", no_groups)):
        write_rejects(store, stage, 0, rejects)
        on_rejects(stage, [row["reason"] for row in rejects])
    return [*subjects, *mixes, *groups]


def styled_texts(
    manifests: Manifests, options: Mapping[str, Any] | None = None, store: Store | None = None
) -> list[Text]:
    """Every prompt in every style, style by style, with its pictures.

    Args:
        manifests: of the run.
        options: of the pictures' file systems by scheme.
        store: the run folder, see `prompt_pictures`.
    """
    pictures = prompt_pictures(manifests.prompts, options, store)
    prompts = list(zip(manifests.prompts.to_pylist(), pictures, strict=True))
    return [
        Text(p["prompt_id"], s["style"], p["text"], s["suffix"], s["negative_prompt"] or "", *shown)
        for s in manifests.styles.to_pylist()
        for p, shown in prompts
    ]


def picture_settings(family: Preset) -> PlanSettings:
    """Size, steps and guidance of a model family."""
    sampler = family.sampler
    return PlanSettings(
        family.height, family.width, sampler.num_inference_steps, sampler.guidance_scale
    )


def request_plan(
    config: BenchmarkConfig,
    family: Preset,
    manifests: Manifests,
    store: Store,
    weights: RunWeights,
    prompts_of: Mapping[str, str] | None = None,
    on_rejects: OnRejects = lambda stage, reasons: None,
) -> RequestPlan:
    """The requests for the people that were embedded.

    Args:
        config, family, manifests, store, weights: of the run.
        prompts_of: person, mix or group -> a prompt of their own, in place of the manifest's; where
            there are groups among them there are no pictures of others.
        on_rejects: see `embedded_subjects`.

    Raises:
        ValueError: nobody was; the message gives the first reason.
    """
    own = prompts_of or {}
    embedded = embedded_subjects(manifests, store, on_rejects)
    if own.keys() & set(manifests.groups["group_id"].to_pylist()):
        embedded = [one for one in embedded if one.identity_id in own]
    subjects = [replace(one, prompt=own.get(one.identity_id)) for one in embedded]
    return RequestPlan(
        methods=[(name, weights.revisions[name]) for name in config.methods],
        texts=styled_texts(manifests, config.storage_options, store),
        subjects=subjects,
        seeds=parse_seeds(config.seeds),
        settings=picture_settings(family),
        unit_size=config.batch_size,
        limit=config.limit,
    )


def _mix_subjects(
    mixes: pa.Table, known: Mapping[str, Subject]
) -> tuple[list[Subject], list[dict[str, Any]]]:
    """Mixes, and rejects of those with a person who was not embedded; the class word only where all
    parts share it."""
    subjects, rejects = [], []
    for mix in mixes.to_pylist():
        parts = [part["identity_id"] for part in mix["parts"]]
        if (missing := _missing("mixes", mix["mix_id"], parts, known)) is not None:
            rejects.append(missing)
            continue
        words = {known[part].class_word for part in parts}
        subjects.append(
            Subject(
                mix["mix_id"],
                words.pop() if len(words) == 1 else "person",
                "+".join(known[part].digest for part in parts),
                tuple(mix["parts"]),
                mix["mode"],
            )
        )
    return subjects, rejects


def _group_subjects(
    manifests: Manifests, known: Mapping[str, Subject]
) -> tuple[list[Subject], list[dict[str, Any]]]:
    """Groups, and rejects of those that cannot be made."""
    people = set(manifests.identities["identity_id"].to_pylist())
    subjects, rejects = [], []
    for group in manifests.groups.to_pylist():
        name, members = group["group_id"], group["people"]
        if (fault := group_fault(group, people)) is not None:
            rejects.append(reject_row("groups", name, *fault))
            continue
        if (missing := _missing("groups", name, members, known)) is not None:
            rejects.append(missing)
            continue
        subjects.append(
            Subject(
                name,
                group_word([known[one].class_word for one in members]),
                "+".join(known[one].digest for one in members),
                group_people=tuple(members),
                group_regions=group_regions(group["regions"]),
            )
        )
    return subjects, rejects


def _missing(
    stage: str, name: str, people: Sequence[str], known: Mapping[str, Subject]
) -> dict[str, Any] | None:
    missing = [one for one in people if one not in known]
    if not missing:
        return None
    told = f"{stage}: {name!r} has the person {missing[0]!r}, whose photos were rejected"
    return reject_row(stage, name, "person_rejected", told)
