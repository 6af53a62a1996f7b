"""Two workers learn what one learns from the batches of both; a split base gives the same, and so
do batches in parts and a compiled step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from infinite_id.base import BaseModel
from infinite_id.config import FusionConfig, SamplerConfig
from infinite_id.generator import InfiniteIdGenerator
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.training.adapter import AdapterBatch, AdapterTraining
from infinite_id.training.distributed import Strategy, distribute, exchange
from infinite_id.training.loop import TrainingLoop
from infinite_id.training.loop_config import LoopConfig
from tests.infinite_id.tiny import (
    ADAPTER,
    CLIP_TOKENS,
    tiny_base,
    tiny_identity,
    tiny_request,
)

WORKERS = 2


def training(text_active: bool) -> tuple[AdapterTraining, BaseModel]:
    base = tiny_base()
    torch.manual_seed(2)
    adapter = IdentityAdapter(ADAPTER, base.unet)
    alphas = torch.linspace(0.99, 0.01, 1000)
    return AdapterTraining(base.unet, adapter, alphas, "epsilon", text_active=text_active), base


def batch(rank: int, text_active: bool) -> AdapterBatch:
    generator = torch.Generator().manual_seed(10 + rank)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return AdapterBatch(
        latents=normal(2, 4, 8, 8),
        face=normal(2, ADAPTER.face_width),
        clip=normal(2, CLIP_TOKENS, ADAPTER.clip_width),
        keep=torch.tensor([True, rank == 0]),
        noise=normal(2, 4, 8, 8),
        timesteps=torch.tensor([100 + rank, 900 - rank]),
        time_ids=torch.zeros(2, 6),
        text=normal(2, 7, 64) if text_active else None,
        pooled=normal(2, 32) if text_active else None,
    )


CASES: list[tuple[Strategy, bool]] = [("ddp", False), ("fsdp", False), ("fsdp", True)]


def work(rank: int, folder: str) -> None:
    """What one worker finds in each case; the workers take seconds to start."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS
    )
    for strategy, text_active in CASES:
        found = gradients(rank, strategy, text_active)
        torch.save(found, Path(folder, f"{strategy}-{text_active}-{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def gradients(rank: int, strategy: Strategy, text_active: bool) -> dict[str, Any]:
    model, base = training(text_active)
    whole = sum(p.numel() for p in model.unet.parameters())
    wrapped = distribute(model, strategy, WORKERS)
    loss = wrapped(batch(rank, text_active))
    held = [_held(model) / whole]
    loss.backward()
    held.append(_held(model) / whole)
    return {
        "gradients": {n: p.grad for n, p in model.adapter.named_parameters()},
        "frozen": all(p.grad is None for p in model.unet.parameters()),
        "held": held,
        "picture": torch.from_numpy(drawn(base, model.adapter)),
    }


def drawn(base: BaseModel, adapter: IdentityAdapter) -> NDArray[np.uint8]:
    """A picture on the way, as a run draws its sample grids."""
    generator = InfiniteIdGenerator(
        base, adapter, FusionConfig(), SamplerConfig(), "test", clip_tokens=CLIP_TOKENS
    )
    return generator.generate([tiny_request()], {"ada": tiny_identity("ada")})[0].image


def _held(model: AdapterTraining) -> int:
    parameters: Any = model.unet.parameters()
    return sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in parameters)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(work, (str(folder),), nprocs=WORKERS)
    return folder


@pytest.mark.parametrize(("strategy", "text_active"), CASES)
@pytest.mark.timeout(240)
def test_two_workers_average_the_gradients_of_their_batches(
    strategy: Strategy, text_active: bool, worked: Path
):
    alone, base = training(text_active)
    for rank in range(WORKERS):
        (alone(batch(rank, text_active)) / WORKERS).backward()
    picture = torch.from_numpy(drawn(base, alone.adapter))
    found = [
        torch.load(worked / f"{strategy}-{text_active}-{rank}.pt", weights_only=True)
        for rank in range(WORKERS)
    ]
    for one in found:
        assert one["frozen"]
        # After the forward pass as well: the backward pass begins with the base split again.
        assert all((held < 0.75) == (strategy == "fsdp") for held in one["held"]), one["held"]
        torch.testing.assert_close(one["picture"], picture, atol=1, rtol=0)
        for name, parameter in alone.adapter.named_parameters():
            torch.testing.assert_close(
                one["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name
            )


def test_one_worker_needs_no_process_group():
    model, _ = training(text_active=False)
    assert distribute(model, "fsdp", 1) is model


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    place = f"file://{tmp_path}/rendezvous"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_parts_of_a_batch_are_the_whole_one_and_exchanged_once_a_step(group: None):
    exchanged: list[tuple[int, int]] = []
    seen: list[tuple[int, int]] = []

    def count(state, bucket):  # DDP refuses annotations that are texts, as they are here
        exchanged.append(seen[-1])
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def loss(step: int, part: int) -> Tensor:
        seen.append((step, part))
        return wrapped(batch(2 * step + part, text_active=False))

    model, _ = training(text_active=False)
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(None, count)
    sync = partial(exchange, wrapped)
    TrainingLoop(model, loss, LoopConfig(accumulation=2, warmup_steps=0), sync=sync).run(steps=3)
    assert seen == [(step, part) for step in range(3) for part in range(2)]
    # A step's gradients may take several exchanges, none of which is after its first part.
    assert sorted(set(exchanged)) == [(step, 1) for step in range(3)]
    alone, _ = training(text_active=False)
    whole = TrainingLoop(
        alone,
        lambda step, part: alone(joined(2 * step, 2 * step + 1)),
        LoopConfig(warmup_steps=0),
    )
    whole.run(steps=3)
    before, _ = training(text_active=False)
    for (name, found), expected, begun in zip(
        model.adapter.named_parameters(),
        alone.adapter.parameters(),
        before.adapter.parameters(),
        strict=True,
    ):
        assert not torch.equal(found, begun), name
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6, msg=name)


def joined(*numbers: int) -> AdapterBatch:
    """One batch of several ones' rows."""
    parts = [asdict(batch(number, text_active=False)) for number in numbers]
    columns = {
        name: torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
        if value is not None
    }
    return AdapterBatch(**columns)


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_a_compiled_step_is_the_plain_one(backend: str):
    plain, compiled = (training(text_active=True)[0] for _ in range(2))
    forward = torch.compile(compiled, backend=backend)
    try:
        for number in range(2):
            given = batch(number, text_active=True)
            expected, found = plain(given), forward(given)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
            expected.backward()
            found.backward()
    finally:
        torch.compiler.reset()
    for (name, one), other in zip(
        plain.adapter.named_parameters(), compiled.adapter.parameters(), strict=True
    ):
        assert other.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6, msg=name)
