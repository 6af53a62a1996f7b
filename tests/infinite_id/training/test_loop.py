"""The optimisation loop: resuming continues the sequence, a bad disk costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from infinite_id.training.checkpoints import CheckpointError, LocalStore
from infinite_id.training.loop import TrainingLoop
from infinite_id.training.loop_config import LoopConfig
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


def test_one_bad_batch_holds_nothing_up_and_the_running_mean_is_resumed(tmp_path: Path):
    def with_bad_batch(store: LocalStore | None = None, multiple: float = 2.0) -> TrainingLoop:
        made = loop(store, clip_over_mean=multiple, second_moment=0.99, gradient_clip=1e9)
        own = made.loss
        made.loss = lambda step, part: own(step, part) * (1e4 if step == 40 else 1.0)
        return made

    def loss_after(made: TrainingLoop) -> float:
        made.run(steps=100)
        return float(made.loss(0, 0).detach())

    # AdamW would take steps of the bad batch's scale, which are next to none, for long.
    assert loss_after(with_bad_batch()) < loss_after(with_bad_batch(multiple=0.0)) / 3
    whole = with_bad_batch()
    whole.run(steps=50)
    store = LocalStore(tmp_path / "state.pt")
    with_bad_batch(store).run(steps=35)
    resumed = with_bad_batch(store)
    assert resumed.resume()
    resumed.run(steps=50)
    torch.testing.assert_close(resumed.model.weight, whole.model.weight, rtol=0, atol=0)


def test_the_rate_rises_is_held_and_falls_to_the_end_of_the_budget():
    config = LoopConfig(warmup_steps=10, total_steps=100, decay_share=0.25, final_rate=0.1)
    shares = [config.rate_share(step) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10:75] == [1.0] * 65
    assert shares[74:97] == pytest.approx([1 - (step - 74) / 25 for step in range(74, 97)])
    assert shares[-1] == 0.1
    assert LoopConfig(warmup_steps=0).rate_share(10**6) == 1.0


def test_the_optimiser_is_given_that_rate():
    made = loop(total_steps=20, final_rate=0.5)
    made.run(steps=20)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("name", "value"),
    [("total_steps", -1), ("decay_share", 1.5), ("final_rate", -0.1), ("muon_rate", float("nan"))],
)
def test_a_setting_out_of_range_is_named(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} is {value}, allowed"):
        LoopConfig(**{name: value})


def network() -> tuple[nn.Sequential, object]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 1, 3, padding=1))

    def loss(step: int, part: int) -> Tensor:
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step * 7 + part))
        return (model(x)[:, 0] - x.prod(dim=1)).square().mean()

    return model, loss


def test_muon_moves_inner_matrices_and_goes_on_after_a_pause(tmp_path: Path):
    def made(folder: Path, **config: object) -> TrainingLoop:
        model, loss = network()
        settings = LoopConfig(learning_rate=1e-3, warmup_steps=1, **config)
        return TrainingLoop(model, loss, settings, store=LocalStore(folder / "state.pt"))

    before = network()[0]
    whole = made(tmp_path / "whole", muon_rate=0.02)
    whole.run(steps=6)
    moved = whole.model[2].weight - before[2].weight
    # Six steps of 0.02, each with singular values near 1.
    assert 0.06 < float(torch.linalg.matrix_norm(moved.detach().flatten(1), 2)) < 0.16
    made(tmp_path, muon_rate=0.02).run(steps=3)
    resumed = made(tmp_path, muon_rate=0.02)
    assert resumed.resume()
    resumed.run(steps=6)
    torch.testing.assert_close(resumed.model[2].weight, whole.model[2].weight, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="lacks Muon"):
        made(tmp_path).resume()


def test_two_workers_equal_one_with_all_parts(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\n"
        "from infinite_id.training.checkpoints import LocalStore\n"
        "from infinite_id.training.loop import TrainingLoop\n"
        "from infinite_id.training.loop_config import LoopConfig\n"
        "from infinite_id.training.workers import join_workers, start_workers, started_rank\n"
        "from pathlib import Path\n"
        "from tests.infinite_id.training.test_loop import regression\n"
        "others = start_workers(2, sys.argv) if started_rank() is None else []\n"
        "workers = join_workers(2)\n"
        "model, loss = regression()\n"
        "config = LoopConfig(learning_rate=0.02, warmup_steps=1)\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "first = workers.rank == 0\n"
        "made = TrainingLoop(model, loss, config, store=store, writer=first, workers=workers)\n"
        "stop = lambda: first and made.step == 5\n"
        "assert made.run(steps=9, should_stop=stop) == 5\n"
        "assert all(other.wait() == 0 for other in others)\n"
    )
    ended = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "state.pt")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert ended.returncode == 0, ended.stderr
    model, loss = regression()
    config = LoopConfig(learning_rate=0.02, warmup_steps=1, accumulation=2)
    TrainingLoop(model, loss, config).run(steps=5)
    together = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    torch.testing.assert_close(together["weight"], model.weight.detach())


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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attention_of_the_loop_is_torchs_own_and_the_switch_is_put_back(precision: str):
    torch.manual_seed(1)
    model = nn.MultiheadAttention(16, 2, batch_first=True)
    x = torch.randn(2, 9, 16)
    products: list[str] = []

    def loss(step: int, part: int) -> Tensor:
        out, _ = model(x, x, x, need_weights=False)
        node, names = [out.grad_fn], set()
        while node:
            one = node.pop()
            if one is not None and one not in names:
                names.add(one)
                node += [before for before, _ in one.next_functions]
        products.extend(one.name() for one in names)
        return out.float().square().mean()

    wanted = loss(0, 0)
    assert any("ScaledDotProductFlash" in name for name in products)
    products.clear()
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    made = TrainingLoop(model, loss, LoopConfig(precision=precision))
    found, _ = made._optimise()
    assert not any("ScaledDotProductFlash" in name for name in products)
    torch.testing.assert_close(found, wanted.detach(), rtol=2e-2, atol=1e-5)
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == allowed
