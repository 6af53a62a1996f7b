"""What a worker makes of its settings: batches, and a checkpoint wherever the output folder is."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infinite_id.base import BaseModel
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.training.adapter import AdapterBatch, AdapterTraining
from infinite_id.training.checkpoints import CheckpointError
from infinite_id.training.loop import TrainingLoop
from infinite_id.training.loop_config import LoopConfig
from pipelines.tables.storage import Store
from pipelines.training.config import TrainingConfig
from pipelines.training.worker import _adapter_batch, _StoredCheckpoint
from tests.infinite_id.tiny import ADAPTER, CLIP_TOKENS, tiny_base

PAIRS = 400


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return tiny_base()


def made(
    base: BaseModel, size: int = PAIRS, captions: tuple[str, ...] = ("a man", "a woman"), **settings
) -> AdapterBatch:
    rng = np.random.default_rng(0)
    pairs = {
        "latents": rng.standard_normal((size, 4, 8, 8)).astype(np.float32),
        "face": rng.standard_normal((size, ADAPTER.face_width)).astype(np.float32),
        "clip": rng.standard_normal((size, CLIP_TOKENS, ADAPTER.clip_width)).astype(np.float32),
        "caption": [captions[number % len(captions)] for number in range(size)],
    }
    config = TrainingConfig(data="photos", **settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        return _adapter_batch(pairs, config, base, torch.device("cpu"), generator)


@pytest.mark.parametrize(("setting", "least", "most"), [(0, 0, 0), (0.3, 0.22, 0.38), (1, 1, 1)])
def test_so_many_identities_are_dropped_as_is_set(
    base: BaseModel, setting: float, least: float, most: float
) -> None:
    batch = made(base, identity_drop=setting)
    assert batch.keep.shape == (PAIRS,)
    assert least <= 1 - float(batch.keep.float().mean()) <= most


@pytest.mark.parametrize(("setting", "least", "most"), [(0, 0, 0), (0.3, 0.22, 0.38), (1, 1, 1)])
def test_so_many_texts_are_dropped_as_is_set(
    base: BaseModel, setting: float, least: float, most: float
) -> None:
    batch = made(base, text_active=True, text_drop=setting, identity_drop=0.5)
    assert batch.text is not None
    assert batch.pooled is not None
    dropped = batch.text.abs().sum(dim=(1, 2)) == 0
    assert least <= float(dropped.float().mean()) <= most
    assert torch.equal(dropped, batch.pooled.abs().sum(dim=1) == 0)
    if 0 < setting < 1:
        # Texts and identities are dropped apart, so that a row may lack either, both or neither.
        assert len({(bool(a), bool(b)) for a, b in zip(dropped, batch.keep, strict=True)}) == 4


def loss_of(base: BaseModel, batch: AdapterBatch, text_active: bool) -> Tensor:
    torch.manual_seed(2)
    adapter = IdentityAdapter(ADAPTER, base.unet)
    alphas = torch.linspace(0.99, 0.01, 1000)
    model = AdapterTraining(base.unet, adapter, alphas, "epsilon", text_active=text_active)
    with torch.no_grad():
        return model(batch)


def test_captions_condition_where_text_is_active_and_never_else(base: BaseModel) -> None:
    for text_active in (True, False):
        ours, others = (
            made(base, 4, captions, text_active=text_active, text_drop=0)
            for captions in (("a man in the snow",), ("a red dress",))
        )
        assert (ours.text is not None) == (ours.pooled is not None) == text_active
        same = torch.equal(loss_of(base, ours, text_active), loss_of(base, others, text_active))
        assert same == (not text_active)


def test_noise_and_times_come_from_the_generator_alone(base: BaseModel) -> None:
    """A resumed run draws for a step what the first would have drawn."""
    first, again = made(base), made(base, captions=("another",))
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert torch.equal(first.keep, again.keep)
    assert 0 <= int(first.timesteps.min()) < 100 < 900 < int(first.timesteps.max()) < 1000
    assert first.time_ids[0].tolist() == [16, 16, 0, 0, 16, 16]


@pytest.fixture(params=["memory", "s3"])
def output(request: pytest.FixtureRequest) -> Any:
    """An output folder that is on no disk of this machine."""
    if request.param == "memory":
        yield Store(f"memory://training-{uuid.uuid4().hex}/run")
        return
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}"}
    store = Store("s3://training/run", {"s3": {**options, "skip_instance_cache": True}})
    store.fs.mkdir("training")
    yield store
    server.stop()


def loop(store: Store | None, signature: str = "test") -> TrainingLoop:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)

    def loss(step: int, part: int) -> Tensor:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (model(x)[:, 0] - x.sum(dim=1)).square().mean()

    config = LoopConfig(learning_rate=0.02, warmup_steps=1, ema_decay=0.9)
    kept = None if store is None else _StoredCheckpoint(store, "checkpoint.pt")
    return TrainingLoop(model, loss, config, store=kept, signature={"kind": signature})


def test_a_checkpoint_at_any_address_is_resumed_from(output: Store) -> None:
    whole = loop(None)
    whole.run(steps=30)
    first = loop(output)
    assert not first.resume()
    first.run(steps=12)
    # Saved over the former one, and read by a process that has nothing but the address.
    first.run(steps=15)
    resumed = loop(Store(output.address, output.options))
    assert resumed.resume()
    assert resumed.step == 15
    resumed.run(steps=30)
    torch.testing.assert_close(resumed.model.weight, whole.model.weight, rtol=0, atol=0)
    torch.testing.assert_close(resumed.ema["weight"], whole.ema["weight"], rtol=0, atol=0)
    assert output.names() == ["checkpoint.pt"]
    with pytest.raises(CheckpointError, match="checkpoint was made with"):
        loop(output, "another").resume()
