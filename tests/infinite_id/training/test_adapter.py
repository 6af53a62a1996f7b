"""Identity-enhanced training: what is trained, what is not, and that text never enters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from infinite_id.config import preset
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.pocket import model as pocket
from infinite_id.training.adapter import (
    AdapterBatch,
    AdapterTraining,
    noisy_and_target,
    snr_weights,
)
from infinite_id.training.loop import TrainingLoop
from infinite_id.training.loop_config import LoopConfig

SIZE = 3


def training(text_active: bool = False) -> AdapterTraining:
    unet = pocket.build_unet()
    torch.manual_seed(0)
    adapter = IdentityAdapter(preset("pocket").adapter, unet)
    alphas = pocket.build_scheduler().alphas_cumprod
    return AdapterTraining(unet, adapter, alphas, "v_prediction", text_active=text_active)


def batch(seed: int = 0, text: float | None = None) -> AdapterBatch:
    g = torch.Generator().manual_seed(seed)
    return AdapterBatch(
        latents=torch.randn(SIZE, 4, 16, 16, generator=g),
        face=torch.nn.functional.normalize(torch.randn(SIZE, 128, generator=g), dim=-1),
        clip=torch.randn(SIZE, 65, 192, generator=g),
        keep=torch.tensor([True, True, False]),
        noise=torch.randn(SIZE, 4, 16, 16, generator=g),
        timesteps=torch.tensor([50, 500, 950]),
        time_ids=torch.full((SIZE, 6), 64.0),
        text=None if text is None else torch.full((SIZE, 64, 256), text),
        pooled=None if text is None else torch.full((SIZE, 160), text),
    )


def test_frozen_parameters_keep_every_bit_and_trained_ones_move():
    model = training()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loop = TrainingLoop(model, lambda step, part: model(batch(step)), LoopConfig(warmup_steps=0))
    loop.run(steps=2)
    after = dict(model.named_parameters())
    frozen = [n for n in before if n.startswith("unet.")]
    moved = [n for n in before if not torch.equal(before[n], after[n])]
    assert frozen
    assert set(moved) == {n for n in before if n.startswith("adapter.")}
    assert not set(frozen) & set(loop.trainable)


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16])
def test_mixed_precision_trains_float32_weights_over_a_base_of_either_kind(frozen: torch.dtype):
    losses = []
    for precision in ("float32", "bfloat16"):
        model = training()
        model.unet.to(frozen if precision == "bfloat16" else torch.float32)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        config = LoopConfig(warmup_steps=0, ema_decay=0.9, precision=precision)
        loop = TrainingLoop(
            model,
            lambda step, part, model=model: model(in_precision(batch(step), model.unet.dtype)),
            config,
            report=lambda progress: losses.append(progress.loss),
        )
        loop.run(steps=2)
    # The same pictures and noise: another precision is another number, but not by much.
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    for name, parameter in model.named_parameters():
        trained = name.startswith("adapter.")
        assert parameter.dtype == (torch.float32 if trained else frozen), name
        assert torch.equal(parameter, before[name]) != trained, name
        if trained:
            assert loop.optimizer.state[parameter]["exp_avg"].dtype == torch.float32
            assert loop.ema[name].dtype == torch.float32


def in_precision(given: AdapterBatch, dtype: torch.dtype) -> AdapterBatch:
    """As a worker of the job makes it: what the frozen base reads is in the base's precision."""
    return replace(given, latents=given.latents.to(dtype), noise=given.noise.to(dtype))


def test_every_trainable_parameter_receives_a_gradient():
    model = training()
    # One step first: gradients through layers whose output is zero at the start would vanish.
    model(batch()).backward()
    without = [
        name
        for name, p in model.adapter.named_parameters()
        if p.grad is None or not bool(p.grad.abs().sum() > 0)
    ]
    assert without == []
    assert all(p.grad is None for p in model.unet.parameters())


def test_text_never_enters_identity_enhanced_training():
    model = training()
    plain = model(batch())
    poisoned = model(batch(text=float("nan")))
    assert torch.equal(plain, poisoned)


def test_text_enters_where_it_is_active():
    model = training(text_active=True)
    assert not torch.equal(model(batch(text=0.0)), model(batch(text=1.0)))
    with pytest.raises(ValueError, match="text is active"):
        model(batch())


def test_a_dropped_identity_is_that_of_zero_embeddings():
    model = training()
    given = batch()
    zeros = replace(
        given,
        face=given.face * torch.tensor([[1.0], [1.0], [0.0]]),
        clip=given.clip * torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1),
        keep=torch.ones(SIZE, dtype=torch.bool),
    )
    torch.testing.assert_close(model(given), model(zeros), rtol=0, atol=0)


def test_v_target_agrees_with_the_scheduler():
    scheduler = pocket.build_scheduler()
    given = batch()
    noisy, target = noisy_and_target(
        given.latents, given.noise, given.timesteps, scheduler.alphas_cumprod, "v_prediction"
    )
    torch.testing.assert_close(
        noisy, scheduler.add_noise(given.latents, given.noise, given.timesteps)
    )
    # A sampler that is told the true velocity recovers the clean latents in one step.
    for row, timestep in enumerate(given.timesteps):
        scheduler.set_timesteps(1000)
        found = scheduler.step(target[row], timestep, noisy[row]).pred_original_sample
        torch.testing.assert_close(found, given.latents[row], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("prediction", "snr", "expected"),
    [("epsilon", 20.0, 0.25), ("epsilon", 2.0, 1.0), ("v_prediction", 4.0, 0.8)],
)
def test_min_snr_weights(prediction: str, snr: float, expected: float):
    alpha = torch.tensor([snr / (1 + snr)])
    assert snr_weights(alpha, prediction, 5.0).item() == pytest.approx(expected, rel=1e-4)


def test_an_unknown_prediction_is_named():
    unet = pocket.build_unet()
    adapter = IdentityAdapter(preset("pocket").adapter, unet)
    with pytest.raises(ValueError, match="prediction is 'sample', allowed: epsilon"):
        AdapterTraining(unet, adapter, torch.ones(10), "sample")
