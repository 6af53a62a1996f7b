"""Two workers learn what one learns from the batches of both; a split base gives the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from infinite_id.adapter import IdentityAdapter
from infinite_id.training.adapter import AdapterBatch, AdapterTraining
from infinite_id.training.distributed import Strategy, distribute
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_unet

WORKERS = 2


def training() -> AdapterTraining:
    unet = tiny_unet()
    torch.manual_seed(2)
    adapter = IdentityAdapter(ADAPTER, unet)
    return AdapterTraining(unet, adapter, torch.linspace(0.99, 0.01, 1000), "epsilon")


def batch(rank: int) -> AdapterBatch:
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
    )


def work(rank: int, strategy: Strategy, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS
    )
    model = training()
    whole = sum(p.numel() for p in model.unet.parameters())
    wrapped = distribute(model, strategy, WORKERS)
    wrapped(batch(rank)).backward()
    torch.save(
        {
            "gradients": {n: p.grad for n, p in model.adapter.named_parameters()},
            "frozen": all(p.grad is None for p in model.unet.parameters()),
            "held": sum(_local(p).numel() for p in model.unet.parameters()) / whole,
        },
        Path(folder, f"{rank}.pt"),
    )
    dist.barrier()
    dist.destroy_process_group()


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.timeout(120)
def test_two_workers_average_the_gradients_of_their_batches(strategy: Strategy, tmp_path: Path):
    mp.spawn(work, (strategy, str(tmp_path)), nprocs=WORKERS)
    alone = training()
    for rank in range(WORKERS):
        (alone(batch(rank)) / WORKERS).backward()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORKERS)]
    for one in found:
        assert one["frozen"]
        assert (one["held"] < 0.75) == (strategy == "fsdp")
        for name, parameter in alone.adapter.named_parameters():
            torch.testing.assert_close(
                one["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name
            )


def test_one_worker_needs_no_process_group():
    model = training()
    assert distribute(model, "fsdp", 1) is model
