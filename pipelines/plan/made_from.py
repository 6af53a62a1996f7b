"""What decides a run's rows, and how a run that is resumed differs from what it was begun with.

Settings are compared by what they mean (`0:2` is `0,1`, a size left out is the preset's), photos by
content and not by address. `run.json` holds the settings, the folder `manifests` the tables.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infinite_id.config import Preset
from infinite_id.weights.places import weights_digest
from pipelines.plan.weights import RunWeights
from pipelines.settings import RunConfig
from pipelines.tables.choices import parse_seeds
from pipelines.tables.manifest import Manifests
from pipelines.tables.photo_digests import not_compared, other_photo, photo_digests
from pipelines.tables.storage import Store

__all__ = ["MadeFrom", "deciding_settings"]

logger = logging.getLogger(__name__)

_KINDS = ("prompts", "styles", "mixes", "groups", "identities")
_PHOTOS = "manifests/photos.parquet"
_ADDRESSES = ("photos", "image", "mask_image", "control_image")


def deciding_settings(config: RunConfig, family: Preset, weights: RunWeights) -> dict[str, Any]:
    """What decides the rows besides the manifests, by name: not addresses, actors or tracking."""
    # As in records that others may read: an address may hold a password.
    chosen = {name: value for name, value in config.record().items() if name in config.decides}
    chosen["height"], chosen["width"] = family.height, family.width
    chosen["num_inference_steps"] = family.sampler.num_inference_steps
    chosen["guidance_scale"] = family.sampler.guidance_scale
    if "seeds" in chosen:
        chosen["seeds"] = _seeds(parse_seeds(chosen["seeds"]))
    if "metrics" in chosen:
        from eval.metrics import metric_names

        chosen["metrics"] = metric_names(chosen["metrics"], chosen.get("judges") or ())
    if chosen.get("scorer"):
        chosen["scorer"] = _content(str(config.scorer), chosen["scorer"])
    if chosen.get("judges"):
        addresses: Mapping[str, str] = getattr(config, "judges")  # noqa: B009 -- of the benchmark
        chosen["judges"] = {n: _content(addresses[n], one) for n, one in chosen["judges"].items()}
    named = {f"weights of {name}": revision for name, revision in weights.revisions.items()}
    return {**dict(sorted(chosen.items())), "face and CLIP networks": weights.encoders, **named}


def _content(address: str, told: str) -> str:
    """What lies there, where that is a place on this machine; else `told`."""
    path = Path(address).expanduser()
    return weights_digest(str(path))[:12] if path.exists() else told


def _seeds(seeds: list[int]) -> str:
    """One way to write them."""
    if seeds == list(range(seeds[0], seeds[0] + len(seeds))) and len(seeds) > 1:
        return f"{seeds[0]}:{seeds[-1] + 1}"
    return ",".join(map(str, seeds))


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """What a run is made from.

    Attributes:
        settings: see `deciding_settings`.
        manifests: the run's own.
        others: people of `references`, whose folder is `other_people`; None without any.
        options: of the photos' file systems by scheme.
    """

    settings: Mapping[str, Any]
    manifests: Manifests
    others: Manifests | None = None
    options: Mapping[str, Any] | None = None

    def claim(self, store: Store, record: Mapping[str, Any], update: Callable[..., None]) -> None:
        """Compares with what a run was begun with, and keeps what was not kept yet.

        Args:
            store: the run folder; its lease is held.
            record: of `run.json`, empty for a new run.
            update: of that record, called with keys and values.

        Raises:
            ValueError: the run was begun with other inputs or settings; says which differ.
        """
        earlier = record.get("made_from")
        if record and earlier is None:
            raise ValueError(
                f"output {store.url} holds a run of an earlier version, which does not say what it "
                "was made from, allowed: another --output"
            )
        for name, value in self.settings.items():
            was = value if earlier is None else earlier.get(name)
            if was != value:
                _refuse(store, f"{name} {_told(was)}, this run has {_told(value)}")
        folders = [(store, self.manifests, "")]
        if self.others is not None:
            folders.append((store.below("other_people"), self.others, "references: "))
        kept = []
        for folder, manifests, what in folders:
            photos = photo_digests(manifests.identities, self.options)
            differs = _difference(folder, manifests, photos)
            if differs is not None:
                _refuse(store, f"other inputs: {what}{differs}")
            kept.append((folder, manifests, photos))
        # A folder with tables and without a record would be another program's.
        update(made_from=dict(self.settings))
        for folder, manifests, photos in kept:
            _keep(folder, manifests, photos)


def _write_manifests(manifests: Manifests, store: Store) -> None:
    """Writes the manifests of a run to its folder."""
    for kind in _KINDS:
        store.write_table(f"manifests/{kind}.parquet", getattr(manifests, kind), row_group_size=256)


def _refuse(store: Store, what: str) -> None:
    raise ValueError(
        f"output {store.url} belongs to a run with {what}; allowed: the same inputs and settings "
        "as before, or another --output"
    )


def _told(value: Any) -> str:
    return "none" if value is None else repr(value)


def _difference(store: Store, manifests: Manifests, photos: pa.Table) -> str | None:
    for kind in _KINDS:
        name = f"manifests/{kind}.parquet"
        if not store.exists(name):
            continue
        now: pa.Table = getattr(manifests, kind)
        # What lies at these addresses is compared, not they: photos below, pictures by the plan.
        columns = [column for column in now.column_names if column not in _ADDRESSES]
        differs = _first_row(kind, store.read_table(name, columns), now.select(columns))
        if differs is not None:
            return differs
    if not store.exists(_PHOTOS):
        return None
    before = store.read_table(_PHOTOS)
    other = other_photo(before, photos)
    note = None if other else not_compared(before, photos)
    if note is not None:
        logger.warning("%s", note)
    return other


def _first_row(kind: str, before: pa.Table, now: pa.Table) -> str | None:
    """The first row that differs; texts stay out of the sentence."""
    before = before.replace_schema_metadata(None)
    for field in now.schema:
        if field.name not in before.column_names:  # of an earlier version
            before = before.append_column(field, pa.nulls(before.num_rows, field.type))
    now = now.replace_schema_metadata(None).select(before.column_names).cast(before.schema)
    if before.equals(now):
        return None
    for number, (old, new) in enumerate(zip(before.to_pylist(), now.to_pylist(), strict=False)):
        for column in now.column_names:
            if old[column] != new[column]:
                key = new[now.column_names[0]]
                return f"{kind}, row {number} ({key!r}): {column!r} is another one than it was"
    return f"{kind} had {before.num_rows} rows, now {now.num_rows}"


def _keep(store: Store, manifests: Manifests, photos: pa.Table) -> None:
    if store.exists(_PHOTOS):
        before = store.read_table(_PHOTOS)
        # A name hides what an address has of passwords and signatures, which may be new ones.
        hidden = pc.any(pc.match_substring(photos["photo"], "***")).as_py()
        if before["photo"].equals(photos["photo"]) and not hidden:
            return
        # What cannot be looked at now, or tells less than it did at the same address, keeps what is
        # known of it.
        known = [
            old
            if new is None or (old and was == name and old.split(":")[0] != new.split(":")[0])
            else new
            for was, name, old, new in zip(
                before["photo"].to_pylist(),
                photos["photo"].to_pylist(),
                before["digest"].to_pylist(),
                photos["digest"].to_pylist(),
                strict=True,
            )
        ]
        photos = photos.set_column(2, "digest", pa.array(known, pa.string()))
    # The actors read the folder's own copy, which names the photos where they lie now.
    _write_manifests(manifests, store)
    store.write_table(_PHOTOS, photos)
