"""Writes trained stages as the shipped assets: half precision, shards, SHA-256s, model card."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from infinite_id import pocket
from infinite_id.adapter import IdentityAdapter
from infinite_id.config import preset
from infinite_id.training.photomaker import PhotoMakerTraining, export_photomaker
from infinite_id.training.stages import ImageText, load_stage
from infinite_id.weights import AdapterMetadata, save_adapter

__all__ = ["export"]

SHARD = "15MB"


def export(state: Path, folder: Path) -> dict[str, int]:
    """Writes all that is trained under `folder`, in `infinite_id/assets/pocket`'s layout.

    The stages vae, clip, scorer and base must be there; adapters that are not are left out.

    Args:
        state: of the training program.
        folder: written anew but for the tokenizer and the model card.

    Returns:
        Steps of each stage written.

    Raises:
        FileNotFoundError: an indispensable stage was not trained yet.
    """
    vae: Any = load_stage(state, "vae", pocket.build_vae())
    latents = load_file(state / "latents.safetensors")
    vae.register_to_config(
        latents_mean=latents["mean"].tolist(), latents_std=latents["std"].tolist()
    )
    clip = load_stage(
        state, "clip", ImageText(pocket.build_clip(), pocket.build_text_encoder(first=True))
    )
    scorer = load_stage(state, "scorer", ImageText(pocket.build_scorer(), None)).model
    unet: Any = load_stage(state, "base", pocket.build_unet())
    second: Any = pocket.build_text_encoder(first=False)
    second.text_model.load_state_dict(clip.model.text_model.state_dict())
    second.text_projection.load_state_dict(clip.model.text_projection.state_dict())
    pipeline = StableDiffusionXLPipeline(
        vae=nn.Module.to(vae, torch.float16),
        text_encoder=clip.first.half(),
        text_encoder_2=second.half(),
        tokenizer=pocket.load_tokenizer(),
        tokenizer_2=pocket.load_tokenizer(),
        unet=nn.Module.to(unet, torch.float16),
        scheduler=pocket.build_scheduler(),
        add_watermarker=False,
    )
    for part in ("base", "clip", "scorer", "adapters"):
        shutil.rmtree(folder / part, ignore_errors=True)
    pipeline.save_pretrained(folder / "base", max_shard_size=SHARD)
    pocket.vision_tower(clip.model).half().save_pretrained(folder / "clip", max_shard_size=SHARD)
    scorer.half().save_pretrained(folder / "scorer", max_shard_size=SHARD)
    steps = {stage: _step(state, stage) for stage in ("vae", "clip", "scorer", "base")}
    (folder / "adapters").mkdir(parents=True)
    for name in pocket.ADAPTERS:
        if (state / f"adapter-{name}.safetensors").is_file():
            steps[f"adapter:{name}"] = _export_adapter(state, folder, name)
    files = sorted(p for p in folder.rglob("*.safetensors"))
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    manifest = {"format": 1, "steps": steps, "files": digests}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return steps


def _export_adapter(state: Path, folder: Path, name: str) -> int:
    stage = f"adapter:{name}"
    step = _step(state, stage)
    path = folder / "adapters" / f"{name}.safetensors"
    if name == "photomaker":
        scheduler = pocket.build_scheduler()
        model = PhotoMakerTraining(
            pocket.build_unet(), scheduler.alphas_cumprod, scheduler.config.prediction_type
        )
        model.load_state_dict(load_file(state / f"adapter-{name}.safetensors"), strict=False)
        export_photomaker(model, path, f"pocket base step {_step(state, 'base')}")
        return step
    adapter = IdentityAdapter(preset("pocket").adapter, pocket.build_unet())
    tensors = load_file(state / f"adapter-{name}.safetensors")
    adapter.load_state_dict({k.removeprefix("adapter."): v for k, v in tensors.items()})
    metadata = AdapterMetadata(
        base=f"pocket base step {_step(state, 'base')}",
        encoders=f"sface-2021dec + pocket clip step {_step(state, 'clip')}",
        step=step,
        text_active=name != "infinite_id",
    )
    save_adapter(path, adapter.half(), metadata)
    return step


def _step(state: Path, stage: str) -> int:
    with safe_open(state / f"{stage.replace(':', '-')}.safetensors", framework="pt") as file:
        return int((file.metadata() or {})["step"])
