"""One worker of a training run: builds the model, resumes, trains; rank 0 writes what is kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from infinite_id.config import Preset
from pipelines.plan.weights import local_preset
from pipelines.tables.storage import Store
from pipelines.training.config import TrainingConfig
from pipelines.training.pairs import pair_batch
from pipelines.training.samples import sample_grid, sample_person, write_samples

__all__ = ["read_metrics", "train_worker"]


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """The reports written so far, in the order of their steps; of a repeated step the last."""
    if not store.exists("metrics.jsonl"):
        return []
    lines = store.read_bytes("metrics.jsonl").decode().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}
    return [rows[step] for step in sorted(rows)]


class _StoredCheckpoint:
    """`CheckpointStore` in a folder of any file system."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name

    def read(self) -> bytes | None:
        return self.store.read_bytes(self.name) if self.store.exists(self.name) else None

    def write(self, data: bytes) -> None:
        self.store.write_bytes(self.name, data)


def train_worker(arguments: dict[str, Any]) -> None:
    """One Ray Train worker: builds the model, resumes, trains, and rank 0 writes the adapter."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from infinite_id.base import load_base
    from infinite_id.identity.adapter import IdentityAdapter
    from infinite_id.training.adapter import AdapterTraining
    from infinite_id.training.distributed import distribute, exchange
    from infinite_id.training.loop import TrainingLoop
    from infinite_id.training.loop_config import LoopConfig

    config: TrainingConfig = arguments["config"]
    family, device = local_preset(config.family(), config.storage_options), get_device()
    rank = ray.train.get_context().get_world_rank()
    workers = ray.train.get_context().get_world_size()
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    # Sample grids need the text encoders and the VAE, steps need text encoders alone, if at all.
    offload = config.offload or not config.text_active
    # What is compiled is the step, which holds the UNet.
    plain = replace(family, controlnet=None)
    base = load_base(plain, device=str(device), dtype=dtype, offload=offload, compile=False)
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
    wrapped: Any = distribute(model, config.strategy, workers)
    forward = torch.compile(wrapped) if config.compile else wrapped
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
        sync=partial(exchange, wrapped),
    )
    # A base that is split computes only where every worker takes part.
    draws = config.sample_steps > 0 and (rank == 0 or (config.strategy == "fsdp" and workers > 1))
    loop.resume()
    person = sample_person(store, family) if draws else None
    stream = _batches(config, family, base.vae_factor, rank, loop.step)
    while loop.step < config.steps:
        before = loop.step
        # Steps, not seconds: every worker must leave the loop at the same one.
        loop.run(steps=min(config.steps, loop.step + config.checkpoint_steps))
        if person is not None and config.samples_due(before, loop.step):
            mixed = torch.autocast(device.type, dtype, enabled=dtype is torch.bfloat16)
            with loop.averaged(), mixed:
                grid = sample_grid(base, adapter, family, person)
            if rank == 0:
                write_samples(store, loop.step, grid)
        ray.train.report({"step": loop.step})
    if rank == 0:
        with loop.averaged():
            _write_adapter(store, adapter, config, base.revision, loop.step)


def _batches(
    config: TrainingConfig, family: Preset, vae_factor: int, rank: int, begun: int
) -> Iterator[dict[str, Any]]:
    """This worker's share of the pairs, again and again, in another order each time.

    `begun`: the step that training goes on from; a resumed run has an order of its own too.
    """
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
            local_shuffle_seed=(config.seed + begun) * 1_000_003 + 4096 * epoch + rank,
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
    from infinite_id.weights.adapter_file import AdapterMetadata, save_adapter

    family = config.family()
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
