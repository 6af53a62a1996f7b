"""The optimisation loop: resuming continues the sequence, a bad disk costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from infinite_id.training.loop import CheckpointError, LocalStore, LoopConfig, TrainingLoop
from tests.full_disk import files_of_at_most


def regression(seed: int = 0) -> tuple[nn.Linear, object]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 1)

    def loss(step: int, part: int) -> Tensor:
        generator = torch.Generator().manual_seed(step * 7 + part)
        x = torch.randn(8, 3, generator=generator)
        return (model(x)[:, 0] - x.sum(dim=1)).square().mean()

    return model, loss


def loop(store: LocalStore | None = None, **config: object) -> TrainingLoop:
    model, loss = regression()
    settings = LoopConfig(learning_rate=0.02, warmup_steps=1, ema_decay=0.9, **config)
    return TrainingLoop(model, loss, settings, store=store, signature={"kind": "test"})


def test_it_learns():
    made = loop()
    before = float(made.loss(0, 0).detach())
    made.run(steps=300)
    assert float(made.loss(0, 0).detach()) < before / 20


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path):
    whole = loop()
    whole.run(steps=30)
    loop(LocalStore(tmp_path / "state.pt")).run(steps=12)
    resumed = loop(LocalStore(tmp_path / "state.pt"))
    assert resumed.resume()
    assert resumed.run(steps=30) == 30
    torch.testing.assert_close(resumed.model.weight, whole.model.weight, rtol=0, atol=0)
    torch.testing.assert_close(resumed.ema["weight"], whole.ema["weight"], rtol=0, atol=0)


def test_a_run_that_is_told_to_stop_leaves_a_checkpoint(tmp_path: Path):
    made = loop(LocalStore(tmp_path / "state.pt"))
    assert made.run(steps=1000, should_stop=lambda: made.step >= 5) == 5
    again = loop(LocalStore(tmp_path / "state.pt"))
    assert again.resume()
    assert again.step == 5


def test_accumulated_parts_equal_one_large_batch():
    model, loss = regression()
    parts = TrainingLoop(model, loss, LoopConfig(accumulation=2, warmup_steps=0))
    other, other_loss = regression()

    def joined(step: int, part: int) -> Tensor:
        return (other_loss(step, 0) + other_loss(step, 1)) / 2

    whole = TrainingLoop(other, joined, LoopConfig(warmup_steps=0))
    parts.run(steps=5)
    whole.run(steps=5)
    torch.testing.assert_close(model.weight, other.weight)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path):
    loop(LocalStore(tmp_path / "state.pt")).run(steps=2)
    model, loss = regression()
    other = TrainingLoop(
        model, loss, LoopConfig(), store=LocalStore(tmp_path / "state.pt"), signature={"kind": "b"}
    )
    with pytest.raises(CheckpointError, match="checkpoint was made with"):
        other.resume()


def test_a_torn_checkpoint_is_refused(tmp_path: Path):
    path = tmp_path / "state.pt"
    loop(LocalStore(path)).run(steps=2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        loop(LocalStore(path)).resume()


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path):
    store = LocalStore(tmp_path / "folder" / "state.pt")
    store.write(b"first")
    store.path.rename(tmp_path / "kept")
    store.path.parent.rmdir()
    store.path.parent.write_text("a file where the folder was")
    with pytest.raises(CheckpointError, match="cannot be written"):
        store.write(b"second")
    assert (tmp_path / "kept").read_bytes() == b"first"


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path: Path):
    store = LocalStore(tmp_path / "state.pt")
    store.write(b"first")
    with (
        files_of_at_most(1000),
        pytest.raises(CheckpointError, match="the former one is intact"),
    ):
        store.write(bytes(100_000))
    assert store.read() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_nan_stops_the_run_before_the_checkpoint_is_overwritten(tmp_path: Path):
    store = LocalStore(tmp_path / "state.pt")
    loop(store).run(steps=3)
    good = store.read()
    model, _ = regression()
    broken = TrainingLoop(
        model,
        lambda step, part: model.weight.sum() * float("nan"),
        LoopConfig(),
        store=store,
        signature={"kind": "test"},
    )
    with pytest.raises(FloatingPointError, match="loss is nan"):
        broken.run(steps=3)
    assert store.read() == good


def test_a_gradient_that_is_infinite_in_the_last_step_is_not_saved(tmp_path: Path):
    store = LocalStore(tmp_path / "state.pt")
    loop(store).run(steps=3)
    good = store.read()
    model, _ = regression()
    with torch.no_grad():
        model.weight.fill_(0.0)
    broken = TrainingLoop(
        model,
        # The slope of a root at 0 is infinite, its value is not.
        lambda step, part: model.weight.abs().sqrt().sum(),
        LoopConfig(),
        store=store,
        signature={"kind": "test"},
    )
    with pytest.raises(FloatingPointError, match=r"gradient is (nan|inf)"):
        broken.run(steps=1)
    assert store.read() == good


def test_averaged_weights_are_lent_and_given_back():
    made = loop()
    made.run(steps=20)
    own = made.model.weight.detach().clone()
    with made.averaged() as model:
        torch.testing.assert_close(model.weight, made.ema["weight"])
        assert not torch.equal(model.weight, own)
    torch.testing.assert_close(made.model.weight, own, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 0.0}, {"accumulation": 0}, {"ema_decay": 1.0}, {"precision": "float8"}],
)
def test_wrong_settings_are_named(settings: dict):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is .*, allowed"):
        LoopConfig(**settings)


def test_a_frozen_model_is_refused():
    model, loss = regression()
    with pytest.raises(ValueError, match="no trainable parameter"):
        TrainingLoop(model.requires_grad_(False), loss, LoopConfig())
