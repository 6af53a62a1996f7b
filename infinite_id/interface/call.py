"""The arguments of one call as requests, one a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from infinite_id.config import Preset
from infinite_id.interface.control_images import control_images_of
from infinite_id.interface.init_images import init_images_of
from infinite_id.interface.mixes import GroupIdentity, MixedIdentity
from infinite_id.interface.people import People
from infinite_id.interface.values import as_number, text, whole
from infinite_id.prompts import Style, fill_prompt, shipped_styles
from infinite_id.provenance import Provenance
from infinite_id.regions import Region
from infinite_id.types import GenerationRequest, Identity, IdentityGroup, IdentityMix

__all__ = ["Call", "one_each"]

Row = Mapping[str, Any]
Shown = Identity | MixedIdentity | GroupIdentity
_TOP = 2**63 - 1


def one_each(**arguments: Any) -> list[dict[str, Any]]:
    """One dictionary a picture: lists are dealt out, all else counts for every picture.

    Raises:
        ValueError: an empty list, or lists of different lengths; names both.
    """
    lists = {name: list(v) for name, v in arguments.items() if isinstance(v, list | tuple)}
    for name, values in lists.items():
        if not values:
            raise ValueError(f"{name} is an empty list, allowed: one value or more")
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        given = ", ".join(f"{len(values)} of {name}" for name, values in lists.items())
        raise ValueError(f"lists have {given}, allowed: equally many of each, or one value for all")
    count = lengths.pop() if lengths else 1
    return [
        {name: lists[name][row] if name in lists else v for name, v in arguments.items()}
        for row in range(count)
    ]


class Call:
    """Requests of one call with the people whom they show.

    Args:
        rows: of `one_each`: prompt, identity, regions, negative_prompt, style, guidance_scale,
            identity_scale, seed, and what `init_images_of` and `control_images_of` read.
        images: pictures of each row.
        shared: values of all requests.
        generator: whose seeds stand in the place of the rows'; one, or one a picture.
        people: makes identities.
        family: default size.

    Attributes:
        requests: one a picture.
        identities: who is in each, None for nobody.
        words: of each picture's style.
        known: people by the requests' keys.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        images: int,
        shared: Mapping[str, Any],
        generator: torch.Generator | Sequence[torch.Generator] | None,
        people: People,
        family: Preset,
    ) -> None:
        images = whole("num_images_per_prompt", images)
        if images < 1:
            raise ValueError(f"num_images_per_prompt is {images!r}, allowed: 1 or more")
        self.requests: list[GenerationRequest] = []
        self.identities: list[Shown | None] = []
        self.words: list[str] = []
        self.known: dict[str, Identity] = {}
        self._shared: dict[str, Any] = {"height": family.height, "width": family.width}
        self._shared |= {name: value for name, value in shared.items() if value is not None}
        for name in ("num_inference_steps", "height", "width"):
            if name in self._shared:
                self._shared[name] = whole(name, self._shared[name])
        size = (self._shared["height"], self._shared["width"])
        begun, held = init_images_of(rows, *size), control_images_of(rows, *size)
        somebodies = self._somebodies(rows, people)
        for row, somebody, first, control in zip(rows, somebodies, begun, held, strict=True):
            for _ in range(images):
                self._add(row, somebody, {"init_image": first, "control_image": control})
        self._sow(rows, images, generator)

    def _somebodies(self, rows: Sequence[Row], people: People) -> list[Shown | None]:
        """Who is in the picture of each row; who is given several times is made once."""
        made: dict[Any, Shown] = {}
        found: list[Shown | None] = []
        for row in rows:
            given = row["identity"]
            if given is None:
                found.append(None)
                continue
            key: Any = str(given) if isinstance(given, str | Path) else id(given)
            regions = row["regions"]
            if regions is not None:
                key = (key, regions if isinstance(regions, str) else id(regions))
            if key not in made:
                made[key] = people.somebody(given, regions)
            found.append(made[key])
        return found

    def _add(self, row: Row, somebody: Shown | None, pictures: Mapping[str, Any]) -> None:
        style = _style(row["style"])
        prompt = text("prompt", row["prompt"])
        negative = row["negative_prompt"]
        negative = style.negative_prompt if negative is None else text("negative_prompt", negative)
        word = "person" if somebody is None else somebody.class_word
        key = "" if somebody is None else somebody.identity_id
        mix: IdentityMix | None = None
        group: IdentityGroup | None = None
        if isinstance(somebody, Identity):
            key = self._key(somebody)
        elif somebody is not None:
            people = tuple(self._key(one) for one in somebody.people)
            if isinstance(somebody, GroupIdentity):
                group = IdentityGroup(people, somebody.regions)
            else:
                mix = somebody.parts(people)
        self.identities.append(somebody)
        self.words.append(style.words)
        self.requests.append(
            GenerationRequest(
                sample_id=str(len(self.requests)),
                identity_id=key,
                prompt=fill_prompt(prompt, word, style.words),
                negative_prompt=negative,
                style=row["style"] or "",
                seed=0,
                guidance_scale=as_number("guidance_scale", row["guidance_scale"]),
                identity_scale=as_number("identity_scale", row["identity_scale"]),
                mix=mix,
                group=group,
                **pictures,
                **self._shared,
            )
        )

    def _key(self, person: Identity) -> str:
        """The person's own name, unless somebody else in this call has it."""
        name, number = person.identity_id, 2
        while self.known.setdefault(name, person) is not person:
            name, number = f"{person.identity_id} ({number})", number + 1
        return name

    def place(self, numbers: Sequence[int], requests: Sequence[GenerationRequest]) -> None:
        """Keeps the regions of `requests`, which are those of `numbers`."""
        for number, request in zip(numbers, requests, strict=True):
            own = self.requests[number]
            self.requests[number] = replace(own, group=request.group)

    def provenance(self, revision: str) -> list[Provenance]:
        """How each picture was made, by a generator of that revision."""
        return [
            Provenance(None, one.method, revision, one.prompt, one.negative_prompt, one.seed)
            for one in self.requests
        ]

    @property
    def regions(self) -> list[tuple[Region, ...] | None]:
        """Of the people of each picture; None: no group."""
        return [None if one.group is None else one.group.regions for one in self.requests]

    def _sow(
        self,
        rows: Sequence[Row],
        images: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
    ) -> None:
        """Gives every request its seed."""
        count = len(self.requests)
        given = [row["seed"] for row in rows for _ in range(images)]
        if generator is not None:
            if any(seed is not None for seed in given):
                raise ValueError("seed and generator are both given, allowed: one of them")
            several = isinstance(generator, list | tuple)
            generators: list[Any] = list(generator) if several else [generator] * count  # type: ignore[arg-type]
            if len(generators) != count:
                raise ValueError(
                    f"generator is a list of {len(generators)}, allowed: {count}, one a picture"
                )
            seeds = [_drawn(one) for one in generators]
        else:
            # One for all, so that equal texts have equal noise and share their stream.
            drawn = _drawn(None)
            begun = [drawn if seed is None else whole("seed", seed) for seed in given]
            seen: dict[Any, int] = {}
            seeds = []
            for request, identity, seed in zip(self.requests, self.identities, begun, strict=True):
                same = (
                    request.prompt,
                    request.negative_prompt,
                    request.guidance_scale,
                    request.identity_scale,
                    id(identity),
                    id(request.init_image),
                    id(request.control_image),
                    seed,
                )
                seen[same] = seen.get(same, -1) + 1
                seeds.append(seed + seen[same])
        self.requests = [
            replace(request, seed=seed) for request, seed in zip(self.requests, seeds, strict=True)
        ]


def _drawn(generator: Any) -> int:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is a {type(generator).__name__}, allowed: torch.Generator, or several"
        )
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(_TOP, (1,), generator=generator, device=device).item())


def _style(name: Any) -> Style:
    if name is None:
        return Style("", "")
    styles = shipped_styles()
    if not isinstance(name, str) or name not in styles:
        raise ValueError(f"style is {name!r}, allowed: {', '.join(styles)}")
    return styles[name]
