"""Identity-enhanced training on Ray Train, fed by Ray Data; one CPU worker is the same program.

`prepare_pairs` computes embeddings and latents once, into Parquet; `train` streams them to the
workers. The output folder (any fsspec address) holds `pairs/`, `checkpoint.pt`, `metrics.jsonl`
and at the end `adapter.safetensors`; run again with the same folder and it goes on from the last
checkpoint, whatever ended the run before.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from infinite_id.config import Preset, preset
from pipelines.storage import Store
from pipelines.training_config import TrainingConfig
from pipelines.training_data import PAIRS, PairActor, pair_batch

__all__ = ["prepare_pairs", "read_metrics", "train"]

_DONE = "pairs/_done.json"


def prepare_pairs(config: TrainingConfig) -> dict[str, int]:
    """Makes the `pairs` table of the output folder unless it is there.

    Returns:
        Counts: pairs of each split, people, rejects by reason.

    Raises:
        ValueError: the data lack a column, or no photo gave a pair; the message says why.
    """
    import ray

    store = Store(config.output, config.storage_options)
    if store.exists(_DONE):
        return dict(json.loads(store.read_bytes(_DONE)))
    source = Store(config.data, config.storage_options)
    photos = ray.data.read_parquet(source.root, filesystem=source.fs)
    columns = photos.schema().names if photos.schema() is not None else []
    for name in ("identity_id", "image"):
        if name not in columns:
            raise ValueError(
                f"{config.data} has the columns {', '.join(columns)}; {name} is missing"
            )
    arguments = {
        "preset": preset(config.preset),
        "pairs_per_photo": config.pairs_per_photo,
        "largest": config.largest_face,
        "threads": config.threads,
    }
    pairs = photos.groupby("identity_id").map_groups(
        PairActor,
        fn_constructor_kwargs=arguments,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_worker,
        num_gpus=1 if config.use_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=config.workers),
    )
    counts: Counter[str] = Counter()
    people = set()
    batches: Iterator[Any] = iter(pairs.iter_batches(batch_size=256, batch_format="pyarrow"))
    for number, batch in enumerate(batches):
        table = batch.select(PAIRS.names).cast(PAIRS)
        for row in table.select(["identity_id", "split", "reject"]).to_pylist():
            people.add(row["identity_id"])
            reason = row["reject"]
            key = f"rejects/{reason.split(':')[0]}" if reason else f"pairs/{row['split']}"
            counts[key] += 1
        store.write_table(f"pairs/part-{number:06d}.parquet", table)
    counts["people"] = len(people)
    if not any(key.startswith("pairs/") for key in counts):
        raise ValueError(
            f"no photo of {config.data} gave a training pair ({dict(counts)}), allowed: photos "
            "with one clear face"
        )
    store.write_bytes(_DONE, json.dumps(dict(counts), sort_keys=True).encode())
    return dict(counts)


def train(config: TrainingConfig) -> dict[str, Any]:
    """Trains on Ray Train until `config.steps` are done; the last metrics.

    Raises:
        ValueError: fewer training pairs than one batch of all workers.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    store = Store(config.output, config.storage_options)
    counts = prepare_pairs(config)
    found, wanted = counts.get("pairs/train", 0), config.batch_size * config.workers
    if found < wanted:
        raise ValueError(
            f"there are {found} training pairs, allowed: {wanted} or more (batch_size x workers)"
        )
    dataset = ray.data.read_parquet(
        store.path("pairs"), filesystem=store.fs, file_extensions=["parquet"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config.model_dump()},
            datasets={"train": dataset.filter(_is_train)},
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


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """The reports written so far, in the order of their steps; of a repeated step the last."""
    if not store.exists("metrics.jsonl"):
        return []
    lines = store.read_bytes("metrics.jsonl").decode().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}
    return [rows[step] for step in sorted(rows)]


def _is_train(row: dict[str, Any]) -> bool:
    return row["split"] == "train" and row["latents"] is not None


class _StoredCheckpoint:
    """`CheckpointStore` in a folder of any file system."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def read(self) -> bytes | None:
        return self.store.read_bytes(self.name) if self.store.exists(self.name) else None

    def write(self, data: bytes) -> None:
        self.store.write_bytes(self.name, data)


def _worker(arguments: dict[str, Any]) -> None:
    """One Ray Train worker: builds the model, resumes, trains, and rank 0 writes the adapter."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from infinite_id.adapter import IdentityAdapter
    from infinite_id.base import load_base
    from infinite_id.training.adapter import AdapterTraining
    from infinite_id.training.loop import LoopConfig, TrainingLoop

    config = TrainingConfig(**arguments["config"])
    family, device = preset(config.preset), get_device()
    rank = ray.train.get_context().get_world_rank()
    workers = ray.train.get_context().get_world_size()
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    base = load_base(family, device=str(device), dtype=dtype)
    torch.manual_seed(config.seed)
    adapter = IdentityAdapter(family.adapter, base.unet).to(device)
    scheduler: Any = base.pipeline.scheduler
    model = AdapterTraining(
        base.unet,
        adapter,
        scheduler.alphas_cumprod.to(device),
        scheduler.config.prediction_type,
        text_active=config.text_active,
        snr_gamma=config.snr_gamma,
    )
    wrapped: Any = _distributed(model, config, workers)
    forward = torch.compile(wrapped) if config.compile else wrapped
    stream = _batches(config, family, base.vae_factor, rank)
    generator = torch.Generator()

    def loss(step: int, part: int) -> Any:
        seed = ((config.seed * 1_000_003 + step) * 64 + part) * 4096 + rank
        generator.manual_seed(seed % 2**63)
        return forward(_adapter_batch(next(stream), config, base, device, generator))

    store = Store(config.output, config.storage_options)
    history = [json.dumps(row) for row in read_metrics(store)] if rank == 0 else []

    def report(progress: Any) -> None:
        row = {
            "step": progress.step,
            "loss": progress.loss,
            "pictures_per_second": progress.steps_per_second
            * config.batch_size
            * config.accumulation
            * workers,
            "gradient_norm": progress.gradient_norm,
        }
        if rank == 0:
            history.append(json.dumps(row))
            store.write_bytes("metrics.jsonl", ("\n".join(history) + "\n").encode())

    def sync(last: bool) -> contextlib.AbstractContextManager:
        exchange = last or not hasattr(wrapped, "no_sync")
        return contextlib.nullcontext() if exchange else wrapped.no_sync()

    loop = TrainingLoop(
        model,
        loss,
        LoopConfig(
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup_steps,
            accumulation=config.accumulation,
            ema_decay=config.ema_decay,
            precision=config.precision,
            checkpoint_seconds=float("inf"),
            log_seconds=float("inf"),
        ),
        store=_StoredCheckpoint(store, "checkpoint.pt"),
        signature=config.signature(),
        report=report,
        writer=rank == 0,
        sync=sync,
    )
    loop.resume()
    while loop.step < config.steps:
        # Steps, not seconds: every worker must leave the loop at the same one.
        loop.run(steps=min(config.steps, loop.step + config.checkpoint_steps))
        ray.train.report({"step": loop.step})
    if rank == 0:
        with loop.averaged():
            _write_adapter(store, adapter, config, base.revision, loop.step)


def _distributed(model: Any, config: TrainingConfig, workers: int) -> Any:
    """The module that exchanges gradients: DDP, over a base that FSDP has split if asked."""
    from torch.nn.parallel import DistributedDataParallel

    if config.strategy == "fsdp" and workers > 1:
        from torch.distributed.fsdp import fully_shard

        # Only the frozen base is large; the adapter stays whole and goes through DDP.
        for block in [*model.unet.down_blocks, model.unet.mid_block, *model.unet.up_blocks]:
            fully_shard(block)
    if workers == 1:
        return model
    ignored = [name for name, _ in model.named_parameters() if name.startswith("unet.")]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)
    return DistributedDataParallel(model)


def _batches(
    config: TrainingConfig, family: Preset, vae_factor: int, rank: int
) -> Iterator[dict[str, Any]]:
    """This worker's share of the pairs, again and again, in another order each time."""
    import ray.train

    shard = ray.train.get_dataset_shard("train")
    epoch = count = 0
    while True:
        before = count
        for batch in shard.iter_batches(
            batch_size=config.batch_size,
            batch_format="pyarrow",
            drop_last=True,
            local_shuffle_buffer_size=config.shuffle_rows,
            local_shuffle_seed=config.seed + 1000 * epoch + rank,
        ):
            count += 1
            yield pair_batch(_columns(batch), family, vae_factor)
        if count == before:
            raise ValueError(
                f"a worker's share of the training pairs is smaller than batch_size "
                f"{config.batch_size}, allowed: more pairs, fewer workers or a smaller batch"
            )
        epoch += 1


def _columns(batch: pa.Table) -> dict[str, list]:
    return {name: batch[name].to_pylist() for name in ("latents", "face", "clip", "caption")}


def _adapter_batch(
    pairs: dict[str, Any], config: TrainingConfig, base: Any, device: Any, generator: Any
) -> Any:
    import torch

    from infinite_id.training.adapter import AdapterBatch

    latents = torch.from_numpy(pairs["latents"]).to(device, base.dtype)
    size, _, height, width = latents.shape
    factor = base.vae_factor
    text = pooled = None
    if config.text_active:
        encoded = base.encode(pairs["caption"])
        kept = (torch.rand(size, generator=generator) >= config.text_drop).to(device)
        text = encoded.hidden * kept[:, None, None]
        pooled = encoded.pooled * kept[:, None]
    count = base.pipeline.scheduler.config.num_train_timesteps
    return AdapterBatch(
        latents=latents,
        face=torch.from_numpy(pairs["face"]).to(device),
        clip=torch.from_numpy(pairs["clip"]).to(device),
        keep=(torch.rand(size, generator=generator) >= config.identity_drop).to(device),
        noise=torch.randn(latents.shape, generator=generator).to(device, base.dtype),
        timesteps=torch.randint(count, (size,), generator=generator).to(device),
        time_ids=base.time_ids(height * factor, width * factor).expand(size, -1),
        text=text,
        pooled=pooled,
    )


def _write_adapter(
    store: Store, adapter: Any, config: TrainingConfig, base_revision: str, step: int
) -> None:
    from infinite_id.weights import AdapterMetadata, save_adapter

    family = preset(config.preset)
    metadata = AdapterMetadata(
        base=base_revision,
        encoders=f"{family.encoders.faces}+{family.encoders.clip}",
        step=step,
        text_active=config.text_active,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapter.safetensors")
        save_adapter(path, adapter, metadata)
        store.write_bytes("adapter.safetensors", path.read_bytes())
