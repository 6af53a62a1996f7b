"""Trained stages as the shipped assets and back: half precision, shards, SHA-256s."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline
from peft.utils import set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel, CLIPVisionModelWithProjection

from infinite_id.baselines.photomaker_weights import load_photomaker
from infinite_id.config import preset
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.pocket import model as pocket
from infinite_id.pocket.image_text import no_bars
from infinite_id.training.adapter import AdapterTraining
from infinite_id.training.autoencoder import (
    decoder_alone,
    fold_latent_scale,
    keep_latent_scale,
    latent_scale,
    load_autoencoder,
)
from infinite_id.training.context import load_stage, stage_file
from infinite_id.training.image_text import ImageText
from infinite_id.training.photomaker import PhotoMakerTraining, export_photomaker
from infinite_id.weights.adapter_file import AdapterMetadata, load_adapter, save_adapter

__all__ = ["export", "restore"]

SHARD = "15MB"
_BASE_STAGES = ("vae", "clip", "scorer", "base")
_PARTS = ("base", "clip", "scorer", "adapters")


def export(state: Path, folder: Path, size: int = 64) -> dict[str, int]:
    """Writes all that is trained under `folder`, in `infinite_id/assets/pocket`'s layout.

    The stages vae, clip, scorer and base must be there; others that are not are left out. All is
    written beside the folder first: a disk that fills up leaves the former weights as they were.

    Args:
        state: of the training program.
        folder: written anew but for the tokenizer and the model card.
        size: of pictures in pixels, of `EDITIONS`.

    Returns:
        Steps of each stage written.

    Raises:
        FileNotFoundError: an indispensable stage was not trained yet.
    """
    vae: Any = load_autoencoder(state, size)
    scale = latent_scale(state)
    if scale is None:
        raise FileNotFoundError(f"{state} knows no latents of its stage vae; train base first")
    fold_latent_scale(vae, *scale)
    clip = load_stage(
        state, "clip", ImageText(pocket.build_clip(), pocket.build_text_encoder(first=True))
    )
    scorer = load_stage(state, "scorer", ImageText(pocket.build_scorer(), None)).model
    unet: Any = load_stage(state, "base", pocket.build_unet(size))
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
    folder = folder.resolve()
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        steps = _write(state, fresh, pipeline, clip, scorer, size)
        folder.mkdir(parents=True, exist_ok=True)
        for part in _PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
            (fresh / part).rename(folder / part)
        (fresh / "manifest.json").replace(folder / "manifest.json")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return steps


def _write(
    state: Path, folder: Path, pipeline: Any, clip: ImageText, scorer: Any, size: int
) -> dict[str, int]:
    tower = pocket.vision_tower(clip.model).half()
    with no_bars(diffusers.utils.logging):
        pipeline.save_pretrained(folder / "base", max_shard_size=SHARD)
        tower.save_pretrained(folder / "clip", max_shard_size=SHARD)
        scorer.half().save_pretrained(folder / "scorer", max_shard_size=SHARD)
    steps = {stage: _step(state, stage) for stage in _BASE_STAGES}
    if (state / f"{stage_file('decoder')}.safetensors").is_file():
        steps["decoder"] = _step(state, "decoder")
    (folder / "adapters").mkdir(parents=True)
    for name in pocket.ADAPTERS:
        if (state / f"adapter-{name}.safetensors").is_file():
            steps[f"adapter:{name}"] = _export_adapter(state, folder, name, size)
    files = sorted(p for p in folder.rglob("*.safetensors"))
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    manifest = {"format": 1, "size": size, "steps": steps, "files": digests}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return steps


def _export_adapter(state: Path, folder: Path, name: str, size: int) -> int:
    stage = f"adapter:{name}"
    step = _step(state, stage)
    path = folder / "adapters" / f"{name}.safetensors"
    if name == "photomaker":
        scheduler = pocket.build_scheduler()
        model = PhotoMakerTraining(
            pocket.build_unet(size), scheduler.alphas_cumprod, scheduler.config.prediction_type
        )
        model.load_state_dict(load_file(state / f"adapter-{name}.safetensors"), strict=False)
        export_photomaker(model, path, f"pocket base step {_step(state, 'base')}")
        return step
    adapter = IdentityAdapter(preset("pocket").adapter, pocket.build_unet(size))
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
    with safe_open(state / f"{stage_file(stage)}.safetensors", framework="pt") as file:
        return int((file.metadata() or {})["step"])


def restore(folder: Path, state: Path, size: int = 64) -> dict[str, int]:
    """Writes the weights of an export as stages of a state folder, so that training goes on.

    Stages that have weights in `state` are left alone. Heads that only training needs are not
    exported and begin anew. Of an export of another size, image-text models alone are taken.

    Args:
        folder: in `infinite_id/assets/pocket`'s layout.
        state: of the training program.
        size: of the pictures that it trains on.

    Returns:
        Steps of each stage written.

    Raises:
        FileNotFoundError: `folder` is no export.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, allowed: the folder of an export")
    manifest = json.loads(path.read_text("utf-8"))
    steps: dict[str, int] = manifest["steps"]
    own = int(manifest.get("size", 64))
    if own != size:
        steps = {stage: step for stage, step in steps.items() if stage in ("clip", "scorer")}
    with no_bars(diffusers.utils.logging):
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            folder / "base", dtype=torch.float32, local_files_only=True, add_watermarker=False
        )
        tower = CLIPVisionModelWithProjection.from_pretrained(folder / "clip", dtype=torch.float32)
        scorer = CLIPModel.from_pretrained(folder / "scorer", dtype=torch.float32)
    clip = ImageText(pocket.build_clip(), pipeline.text_encoder)
    second = pipeline.text_encoder_2
    clip.model.text_model.load_state_dict(second.text_model.state_dict())
    clip.model.text_projection.load_state_dict(second.text_projection.state_dict())
    clip.model.vision_model.load_state_dict(tower.vision_model.state_dict())
    clip.model.visual_projection.load_state_dict(tower.visual_projection.state_dict())
    modules: dict[str, nn.Module] = {
        "vae": pipeline.vae,
        "clip": clip,
        "scorer": ImageText(scorer, None),
        "base": pipeline.unet,
    }
    written = {}
    state.mkdir(parents=True, exist_ok=True)
    for stage, step in steps.items():
        target = state / f"{stage_file(stage)}.safetensors"
        if target.is_file():
            continue
        if stage == "decoder":
            modules[stage] = decoder_alone(pipeline.vae)
        elif stage not in modules:
            name = stage.removeprefix("adapter:")
            modules[stage] = _trained_adapter(
                folder / "adapters" / f"{name}.safetensors", name, size
            )
        tensors = {
            n: p.detach().float().contiguous()
            for n, p in modules[stage].named_parameters()
            if stage in _BASE_STAGES or p.requires_grad
        }
        save_file(tensors, target, metadata={"step": str(step)})
        written[stage] = step
        if stage == "vae":
            config = pipeline.vae.config
            mean = config.latents_mean or [0.0] * config.latent_channels
            deviation = config.latents_std or [1.0] * config.latent_channels
            keep_latent_scale(state, torch.tensor(mean), torch.tensor(deviation))
    return written


def _trained_adapter(path: Path, name: str, size: int) -> nn.Module:
    """The module that the stage of an exported adapter trains, with its weights."""
    scheduler, unet = pocket.build_scheduler(), pocket.build_unet(size)
    if name != "photomaker":
        adapter, _ = load_adapter(path, preset("pocket").adapter, unet)
        return AdapterTraining(
            unet, adapter, scheduler.alphas_cumprod, scheduler.config.prediction_type
        )
    model = PhotoMakerTraining(unet, scheduler.alphas_cumprod, scheduler.config.prediction_type)
    encoder, lora, _ = load_photomaker(path)
    model.encoder.load_state_dict(encoder.float().state_dict())
    base: Any = model.unet
    set_peft_model_state_dict(base, {k.removeprefix("unet."): v for k, v in lora.items()})
    return model
