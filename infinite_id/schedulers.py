"""Schedulers by name, each with the noise that its base was trained on."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from infinite_id.config import SchedulerKind, check_choice

__all__ = ["scheduler_like"]

# The few-step LoRAs were distilled on time steps counted from the last one.
_TRAILING = {"timestep_spacing": "trailing"}
_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "ddim_trailing": (DDIMScheduler, _TRAILING),
    "dpmsolver++": (DPMSolverMultistepScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_trailing": (EulerDiscreteScheduler, _TRAILING),
    "lcm": (LCMScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
# SDXL's own noise, where a base's configuration is silent: the classes' defaults are other models'.
_SDXL_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
# Both cut off what lies outside [-1, 1], as pixels do and latents do not. Bases converted by
# diffusers' from_single_file do not name the first, and DDIM's default is to cut.
_LATENTS = {"clip_sample": False, "thresholding": False}


def scheduler_like(own: Any, kind: SchedulerKind, steps: int) -> Any:
    """A fresh scheduler over the noise of another, with its timesteps set.

    Args:
        own: the scheduler that a base came with, of diffusers' classes.
        kind: see `infinite_id.config.SamplerConfig`; "own" is of its class.
        steps: number of denoising steps, 1 or more.

    Raises:
        ValueError: unknown kind; the message lists the known ones.
    """
    check_choice("scheduler", kind, SchedulerKind)
    cls, overrides = _SCHEDULERS.get(kind, (type(own), {}))
    silent = {"_use_default_values", *own.config.get("_use_default_values", ())}
    stated = {name: value for name, value in own.config.items() if name not in silent}
    config = own.config if kind == "own" else {**_SDXL_NOISE, **stated}
    made = cls.from_config({**config, **_LATENTS, **overrides})
    # On the CPU whatever the device: numbers read from it in a step would make it wait.
    made.set_timesteps(steps)
    return made
