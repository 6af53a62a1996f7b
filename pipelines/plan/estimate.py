"""What a run will take, before anything is rented: pictures, GPU hours, storage, cost.

Not the request plan (`pipelines.plan.requests`): only its size enters here. Arithmetic over given
or measured rates; nothing is generated and no cluster is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.tables.storage import Store

__all__ = ["Estimate", "Rates", "estimate", "measured_rates"]

_GB = 1e9


@dataclass(frozen=True, slots=True)
class Rates:
    """What one picture takes.

    Attributes:
        images_per_second: of one generation actor (one GPU).
        bytes_per_image: encoded picture with its row.
    """

    images_per_second: float
    bytes_per_image: float

    def __post_init__(self) -> None:
        for name in ("images_per_second", "bytes_per_image"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value:g}, allowed: finite, more than 0")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's size.

    Attributes:
        people: of the manifest, mixes and groups included.
        texts: prompts in their styles.
        wanted: pictures that the user wants.
        draws: pictures that are generated; more than wanted where gates refuse some.
        gpu_hours: of generation.
        hours: on the cluster, generation alone bounding it.
        storage_gb: of pictures and embeddings, 1 GB = 10^9 bytes.
        gpu_cost, storage_cost: in the currency of the prices, storage for one month.
    """

    people: int
    texts: int
    wanted: int
    draws: int
    gpu_hours: float
    hours: float
    storage_gb: float
    gpu_cost: float
    storage_cost: float


def estimate(
    *,
    people: int,
    texts: int,
    wanted: int,
    rates: Rates,
    gpus: int,
    acceptance: float = 1.0,
    embedding_bytes: int = 0,
    gpu_price: float = 0.0,
    storage_price: float = 0.0,
) -> Estimate:
    """The size of a run.

    Args:
        people, texts, wanted: see `Estimate`.
        rates: of one picture.
        gpus: generation actors of one GPU each.
        acceptance: share of drawn pictures that pass the gates, in (0, 1].
        embedding_bytes: of one person.
        gpu_price: of one GPU hour.
        storage_price: of a GB and month.

    Raises:
        ValueError: a value out of range.
    """
    if gpus < 1:
        raise ValueError(f"gpus is {gpus}, allowed: 1 or more")
    if not 0 < acceptance <= 1:
        raise ValueError(f"acceptance is {acceptance:g}, allowed: more than 0, at most 1")
    for name, price in (("GPU price", gpu_price), ("storage price", storage_price)):
        if not 0 <= price < float("inf"):
            raise ValueError(f"{name} is {price:g}, allowed: finite, 0 or more")
    draws = -int(-wanted // acceptance)
    gpu_hours = draws / rates.images_per_second / 3600
    storage_gb = (draws * rates.bytes_per_image + people * embedding_bytes) / _GB
    return Estimate(
        people=people,
        texts=texts,
        wanted=wanted,
        draws=draws,
        gpu_hours=gpu_hours,
        hours=gpu_hours / gpus,
        storage_gb=storage_gb,
        gpu_cost=gpu_hours * gpu_price,
        storage_cost=storage_gb * storage_price,
    )


def measured_rates(url: str, options: Mapping[str, Any] | None = None) -> Rates:
    """What a picture took in an earlier run, from its run.json and its `images` files.

    Raises:
        ValueError: no run, or one without a generated picture.
    """
    store = Store(url, options)
    if not store.exists("run.json"):
        raise ValueError(f"{store.url} holds no run: it has no run.json")
    record = json.loads(store.read_bytes("run.json"))
    timing = record.get("timings", {}).get("images, in the actors", {})
    rows, seconds = timing.get("rows", 0), timing.get("seconds", 0.0)
    names = store.names("images", ".parquet")
    if not names or rows < 1 or seconds <= 0:
        raise ValueError(f"{store.url} has no timed picture, allowed: a run that made some")
    size = sum(store.fs.size(store.path(f"images/{name}")) for name in names)
    return Rates(rows / seconds, size / max(store.count_rows("images"), 1))
