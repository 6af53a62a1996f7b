"""The request plan: the cross product of people, prompts, styles, seeds and methods, kept lazy.

A plan of 10^9 requests is a few lists and arithmetic: request i is computed when it is needed.
Requests are text-major (docs/pipeline.md): consecutive ones share prompt, style and seed and
differ in identity, so that a generation batch shares one text stream. They are cut into units;
a unit is generated as one batch and committed as one file, so a unit's number names its results
in every rerun.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from infinite_id.prompts import fill_prompt
from infinite_id.regions import Box
from infinite_id.types import GenerationRequest, IdentityGroup, IdentityMix
from pipelines.tables.mixes_and_groups import group_regions
from pipelines.tables.prompt_controls import CONTROL_COLUMNS, PromptControl
from pipelines.tables.prompt_pictures import PromptPicture
from pipelines.tables.schemas import REQUESTS

__all__ = [
    "RequestPlan",
    "PlanSettings",
    "Subject",
    "Text",
    "UnitPlan",
    "people_of",
    "request_from_row",
    "request_row",
    "sample_id",
]

_GROUP = ("group_people", "group_regions")


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is in the picture: a person, a mix of people, or a group of them.

    Attributes:
        identity_id: key of the person, of the mix or of the group.
        class_word: what {subject} in a prompt becomes.
        digest: of the embedding (of all people's for a mix or a group).
        mix_parts: [{"identity_id", "weight"}], None for a person.
        mix_mode: "interpolate" or "stack", None for a person.
        prompt: of this person alone, in place of the plan's; it may hold {subject}.
        group_people: identity_ids, None unless it is a group.
        group_regions: boxes, one a person; None: found by the generator.
    """

    identity_id: str
    class_word: str
    digest: str
    mix_parts: tuple[Mapping[str, Any], ...] | None = None
    mix_mode: str | None = None
    prompt: str | None = None
    group_people: tuple[str, ...] | None = None
    group_regions: tuple[Box, ...] | None = None

    @property
    def group_columns(self) -> dict[str, Any]:
        """As `requests` have them, null unless it is a group."""
        people, regions = self.group_people, self.group_regions
        return {
            "group_people": None if people is None else list(people),
            "group_regions": None if regions is None else [list(box) for box in regions],
        }


@dataclass(frozen=True, slots=True)
class Text:
    """One prompt in one style; `text` may hold {subject}. It may begin with a picture, and be held
    to one."""

    prompt_id: str
    style: str
    text: str
    suffix: str
    negative_prompt: str
    picture: PromptPicture | None = None
    control: PromptControl | None = None

    @property
    def pictures(self) -> list[str]:
        """What it begins with and is held to, by content; empty for neither."""
        begun = [] if self.picture is None else [self.picture.key]
        return begun if self.control is None else [*begun, f"control:{self.control.key}"]

    def prompt(self, class_word: str, own: str | None = None) -> str:
        """The final prompt for a subject, of its own text where it has one."""
        return fill_prompt(self.text if own is None else own, class_word, self.suffix)


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What all requests of a plan share."""

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float


def sample_id(row: Mapping[str, Any], model_revision: str, identity_digest: str) -> str:
    """32 hex digits that name a row: all that determines the picture, and its prompt's key.

    Two prompts of one text thus have two rows with two ids and the same picture in both: a join by
    id never doubles a row, and each prompt has its scores.

    Args:
        row: a requests row; its own "sample_id" is not read.
        model_revision: of weights and method settings.
        identity_digest: of the embeddings that condition the picture, and of its pictures.
    """
    what = [
        model_revision,
        identity_digest,
        row.get("prompt_id"),  # a service's prompts have none
        *(
            row[name]
            for name in (
                "identity_id",
                "method",
                "prompt",
                "negative_prompt",
                "style",
                "seed",
                "height",
                "width",
                "num_inference_steps",
                "guidance_scale",
                "mix_parts",
                "mix_mode",
            )
        ),
        # Others keep the names that they had before there were groups.
        *(row[name] for name in _GROUP if row.get(_GROUP[0])),
    ]
    text = json.dumps(what, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def request_row(
    method: tuple[str, str], subject: Subject, text: Text, seed: int, settings: PlanSettings
) -> dict[str, Any]:
    """One `requests` row; `method` is (name, model revision)."""
    name, revision = method
    row: dict[str, Any] = {
        "identity_id": subject.identity_id,
        "method": name,
        "prompt_id": text.prompt_id,
        "style": text.style,
        "seed": seed,
        "prompt": text.prompt(subject.class_word, subject.prompt),
        "negative_prompt": text.negative_prompt,
        "height": settings.height,
        "width": settings.width,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "mix_parts": list(subject.mix_parts) if subject.mix_parts else None,
        "mix_mode": subject.mix_mode,
        **subject.group_columns,
        **dict.fromkeys(("image", "mask_image", "strength", *CONTROL_COLUMNS)),
    }
    for pictures in (text.picture, text.control):
        row |= {} if pictures is None else pictures.told
    row["sample_id"] = sample_id(row, revision, "|".join([subject.digest, *text.pictures]))
    return row


def request_from_row(row: Mapping[str, Any]) -> GenerationRequest:
    """A `requests` row as the record that generators take, without its pictures."""
    mix = None
    if row["mix_parts"]:
        parts = tuple((part["identity_id"], part["weight"]) for part in row["mix_parts"])
        mix = IdentityMix(parts, row["mix_mode"])
    group = None
    if row["group_people"]:
        group = IdentityGroup(tuple(row["group_people"]), group_regions(row["group_regions"]))
    own = {"mix", "identity_scale", "group", "init_image", "control_image", "details"}
    names = set(GenerationRequest.__dataclass_fields__) - own
    return GenerationRequest(**{name: row[name] for name in names}, mix=mix, group=group)


def people_of(row: Mapping[str, Any]) -> list[str]:
    """Keys of the people that a `requests` row shows: one, a mix's parts, or a group's people."""
    if row["group_people"]:
        return list(row["group_people"])
    if row["mix_parts"]:
        return [part["identity_id"] for part in row["mix_parts"]]
    return [row["identity_id"]]


class UnitPlan(Protocol):
    """What actors read of a plan: requests by unit, and what they are made of."""

    methods: list[tuple[str, str]]
    texts: list[Text]
    subjects: list[Subject]

    def __len__(self) -> int:
        """Requests."""
        ...

    def table(self, unit: int) -> pa.Table:
        """The requests of a unit, schema REQUESTS."""
        ...


class RequestPlan:
    """Requests by number, cut into units.

    Args:
        methods: (name, model revision), in the order in which they run.
        texts: prompts in their styles.
        subjects: people, mixes and groups.
        seeds: of the initial noise.
        settings: size, steps, guidance.
        unit_size: most requests of a unit, the generation batch.
        limit: most requests a method; None for all.
    """

    def __init__(
        self,
        *,
        methods: Sequence[tuple[str, str]],
        texts: Sequence[Text],
        subjects: Sequence[Subject],
        seeds: Sequence[int],
        settings: PlanSettings,
        unit_size: int,
        limit: int | None = None,
    ) -> None:
        if unit_size < 1:
            raise ValueError(f"batch size is {unit_size}, allowed: 1 or more")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}, allowed: 1 or more")
        self.methods = list(methods)
        self.texts = list(texts)
        self.subjects = list(subjects)
        self.seeds = list(seeds)
        self.settings = settings
        self.unit_size = unit_size
        people = len(self.subjects)
        every = people * len(self.texts) * len(self.seeds)
        self.per_method = every if limit is None else min(limit, every)
        # A unit holds whole text groups where several fit, else an even part of one group.
        if people == 0:
            self._parts, self._groups = 1, 1
        elif people > unit_size:
            self._parts, self._groups = -(-people // unit_size), 1
        else:
            self._parts, self._groups = 1, unit_size // people
        span = people * self._groups
        whole, rest = divmod(self.per_method, span) if span else (0, 0)
        self._units_per_method = whole * self._parts + (self._parts if rest else 0)

    def __len__(self) -> int:
        """Number of requests."""
        return self.per_method * len(self.methods)

    @property
    def units(self) -> int:
        """Number of units; a unit at the end of a method may be empty."""
        return self._units_per_method * len(self.methods)

    def bounds(self, unit: int) -> tuple[int, int, int]:
        """(method number, first request, last request + 1) of a unit, within its method."""
        method, local = divmod(unit, self._units_per_method)
        span = len(self.subjects) * self._groups
        block, part = divmod(local, self._parts)
        first = block * span + part * span // self._parts
        last = block * span + (part + 1) * span // self._parts
        return method, min(first, self.per_method), min(last, self.per_method)

    def unit_rows(self, unit: int) -> int:
        """Number of requests of a unit."""
        _, first, last = self.bounds(unit)
        return last - first

    def row(self, method: int, index: int) -> dict[str, Any]:
        """The requests row number `index` of a method."""
        group, person = divmod(index, len(self.subjects))
        text_number, seed_number = divmod(group, len(self.seeds))
        return request_row(
            self.methods[method],
            self.subjects[person],
            self.texts[text_number],
            self.seeds[seed_number],
            self.settings,
        )

    def table(self, unit: int) -> pa.Table:
        """The requests of a unit, schema REQUESTS."""
        method, first, last = self.bounds(unit)
        rows = [self.row(method, index) for index in range(first, last)]
        return pa.Table.from_pylist(rows, schema=REQUESTS)

    @property
    def digest(self) -> str:
        """Names the plan: a run folder can only be resumed with the plan that began it."""
        parts: list[Any] = [
            self.methods,
            [
                [t.prompt_id, t.style, t.text, t.suffix, t.negative_prompt, *t.pictures]
                for t in self.texts
            ],
            [
                [s.identity_id, s.class_word, s.digest, list(s.mix_parts or ()), s.mix_mode]
                + ([] if s.prompt is None else [s.prompt])
                + ([] if s.group_people is None else [s.group_columns])
                for s in self.subjects
            ],
            self.seeds,
            [
                self.settings.height,
                self.settings.width,
                self.settings.num_inference_steps,
                self.settings.guidance_scale,
            ],
            self.unit_size,
            self.per_method,
        ]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
