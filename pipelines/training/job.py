"""Identity-enhanced training on Ray Train, fed by Ray Data; one CPU worker is the same program.

`prepare_pairs` computes embeddings and latents once, into Parquet; `train` streams them to the
workers. The output folder (any fsspec address) holds `pairs/`, `signature.json`, `checkpoint.pt`,
`metrics.jsonl`, `samples/` and at the end `adapter.safetensors`; run again with the same folder and
it goes on from the last checkpoint, whatever ended the run before.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from eval.places import StorageError, guarding
from pipelines.run.folder import check_same
from pipelines.stages.device import torch_device
from pipelines.tables.people import first_warnings
from pipelines.tables.photo_digests import content_digest
from pipelines.tables.storage import Store
from pipelines.training.config import TrainingConfig
from pipelines.training.pairs import PAIRS, PairActor
from pipelines.training.worker import read_metrics, train_worker

__all__ = ["count_photos", "pair_warnings", "prepare_pairs", "train"]

_DONE = "pairs/_done.json"
_MADE_OF = "pairs/_made_of.json"
_WARNINGS = "pairs/_warnings.json"
_SIGNATURE = "signature.json"

# A partition is held in memory as a whole. Ray's own number, 200, is many for a few people and
# few for ten million photos.
_PHOTOS_A_PARTITION = 500
_MOST_PARTITIONS = 2000


def count_photos(config: TrainingConfig) -> int:
    """Photos of the data, 0 where the output folder has their pairs; needs no Ray.

    Raises:
        ValueError: the data lack a column, or the output folder holds the pairs or the checkpoint
            of other settings. StorageError (a ValueError): they cannot be read.
    """
    store = Store(config.output, config.storage_options)
    check_same(store, _SIGNATURE, "a run with", config.signature())
    if store.exists(_DONE):
        check_same(store, _MADE_OF, "pairs made with", _compared(store, config))
        return 0
    source = Store(config.data, config.storage_options)
    if not source.exists():
        raise StorageError(f"data {config.data} does not exist")
    with guarding("read", config.data):
        photos = ds.dataset(source.root, filesystem=source.fs)
        rows = int(photos.count_rows())
    _check_columns(photos.schema, config.data)
    return rows


def _check_columns(schema: pa.Schema, where: str) -> None:
    for name in ("identity_id", "image"):
        if name not in schema.names:
            raise ValueError(
                f"{where} has the columns {', '.join(schema.names)}; {name} is missing"
            )
    image = schema.field("image").type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if image not in (pa.binary(), pa.large_binary()):
        raise ValueError(
            f"{where}, column 'image': type is {image}, allowed: binary, or a struct with bytes as "
            "datasets.Image has it"
        )
    for name in ("identity_id", "caption"):
        kind = schema.field(name).type if name in schema.names else pa.string()
        # pandas writes a column of categories so.
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = (pa.string(), pa.large_string())
        if kind not in (texts if name == "identity_id" else (*texts, pa.null())):
            raise ValueError(f"{where}, column {name!r}: type is {kind}, allowed: string")


def _compared(store: Store, config: TrainingConfig) -> dict[str, Any]:
    """`_made_of`, with the data by content where that is known, and else by address."""
    made_of = _made_of(config)
    # Pairs that another program put there have no such record, and nothing to be compared with.
    before = json.loads(store.read_bytes(_MADE_OF)) if store.exists(_MADE_OF) else {}
    if "check_people" not in before and not made_of["check_people"]:
        del made_of["check_people"]  # pairs of before there was such a check
    known = made_of["content of data"] is not None and before.get("content of data") is not None
    del made_of["data" if known else "content of data"]
    return made_of


def _made_of(config: TrainingConfig) -> dict[str, Any]:
    """The settings that decide what stands in `pairs`."""
    source = Store(config.data, config.storage_options)
    return {
        "data": source.url,
        "content of data": content_digest(source) if source.exists() else None,
        "preset": config.preset,
        "pairs_per_photo": config.pairs_per_photo,
        "largest_face": config.largest_face,
        "check_people": config.check_people,
    }


def prepare_pairs(
    config: TrainingConfig, check: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Makes the `pairs` table of the output folder unless it is there.

    Args:
        config: of the training.
        check: called before each file is written; raises where the folder is another run's now.

    Returns:
        Counts: pairs of each split, people, rejects by reason.

    Raises:
        ValueError: as of `count_photos`, or no photo gave a pair; the message says why.
    """
    import ray

    store = Store(config.output, config.storage_options)
    rows = count_photos(config)
    if store.exists(_DONE):
        return dict(json.loads(store.read_bytes(_DONE)))
    # Of a preparation that was killed, maybe over other data.
    for name in store.names("pairs"):
        store.delete(f"pairs/{name}")
    store.write_bytes(_MADE_OF, json.dumps(_made_of(config), sort_keys=True).encode())
    source = Store(config.data, config.storage_options)
    photos = ray.data.read_parquet(source.root, filesystem=source.fs)
    arguments = {
        "preset": config.family(),
        "device": torch_device(1.0 if config.use_gpu else 0.0),
        "options": config.storage_options,
        "pairs_per_photo": config.pairs_per_photo,
        "largest": config.largest_face,
        "check": config.check_people,
        "threads": config.threads,
    }
    partitions = min(_MOST_PARTITIONS, max(config.workers, rows // _PHOTOS_A_PARTITION))
    pairs = photos.groupby("identity_id", num_partitions=partitions).map_groups(
        PairActor,
        fn_constructor_kwargs=arguments,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_worker,
        num_gpus=1 if config.use_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=config.workers),
    )
    counts: Counter[str] = Counter()
    people = set()
    warnings: list[str] = []
    batches: Iterator[Any] = iter(pairs.iter_batches(batch_size=256, batch_format="pyarrow"))
    for number, batch in enumerate(batches):
        table = batch.select(PAIRS.names).cast(PAIRS)
        warnings += table["warning"].drop_null().to_pylist()
        for row in table.select(["identity_id", "split", "reject"]).to_pylist():
            people.add(row["identity_id"])
            reason = row["reject"]
            key = f"rejects/{reason.split(':')[0]}" if reason else f"pairs/{row['split']}"
            counts[key] += 1
        check()
        store.write_table(f"pairs/part-{number:06d}.parquet", table)
    counts["people"] = len(people)
    if not any(key.startswith("pairs/") for key in counts):
        raise ValueError(
            f"no photo of {config.data} gave a training pair ({dict(counts)}), allowed: photos "
            "with one clear face"
        )
    told = first_warnings(sorted(warnings), "the column warning of pairs/")
    store.write_bytes(_WARNINGS, json.dumps(told, ensure_ascii=False).encode())
    store.write_bytes(_DONE, json.dumps(dict(counts), sort_keys=True).encode())
    return dict(counts)


def pair_warnings(store: Store) -> list[str]:
    """Sentences on people of the `pairs` whose photos do not agree."""
    return list(json.loads(store.read_bytes(_WARNINGS))) if store.exists(_WARNINGS) else []


def train(config: TrainingConfig) -> dict[str, Any]:
    """Trains on Ray Train until `config.steps` are done; the last metrics.

    Raises:
        ValueError: as of `prepare_pairs`, or fewer training pairs than one batch of all workers.
    """
    import ray
    from ray.data import FileShuffleConfig
    from ray.data.expressions import col
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    store = Store(config.output, config.storage_options)
    counts = prepare_pairs(config)
    found, wanted = counts.get("pairs/train", 0), config.batch_size * config.workers
    if found < wanted:
        raise ValueError(
            f"there are {found} training pairs, allowed: {wanted} or more (batch_size x workers)"
        )
    store.write_bytes(_SIGNATURE, json.dumps(config.signature(), sort_keys=True).encode())
    done = read_metrics(store)
    # A run that is often killed would else see the first files again and again, and never the last.
    order = FileShuffleConfig(seed=config.seed + (done[-1]["step"] if done else 0))
    dataset = ray.data.read_parquet(
        store.path("pairs"), filesystem=store.fs, file_extensions=["parquet"], shuffle=order
    )
    usable = (col("split") == "train") & col("latents").is_not_null()

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Ray's own ends the program with exit code 0; Ctrl-C is a KeyboardInterrupt here."""

    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            train_worker,
            train_loop_config={"config": config},
            datasets={"train": dataset.filter(expr=usable)},
            torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.workers,
                use_gpu=config.use_gpu,
                resources_per_worker={
                    "CPU": config.cpus_per_worker,
                    **({"GPU": 1} if config.use_gpu else {}),
                },
            ),
            # Ray's own checkpoints are not used: the loop writes its state to the output folder.
            run_config=RunConfig(
                name="train",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=config.max_failures),
            ),
        )
        trainer.fit()
    metrics = read_metrics(store)
    return metrics[-1] if metrics else {}
