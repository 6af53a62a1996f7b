"""LoRAs of a base model, in every format that diffusers reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import StableDiffusionXLPipeline

from infinite_id.packages import file_digest

__all__ = ["fuse_lora", "load_lora"]


def load_lora(
    pipeline: StableDiffusionXLPipeline,
    lora: Any,
    *,
    weight_name: str | None = None,
    adapter_name: str | None = None,
) -> None:
    """As the pipeline's `load_lora_weights`, which warns of both text encoders where a LoRA is of
    the UNet alone."""
    source = dict(lora) if isinstance(lora, dict) else lora
    state, alphas, metadata = pipeline.lora_state_dict(
        source,
        weight_name=weight_name,
        unet_config=pipeline.unet.config,
        return_lora_metadata=True,
    )
    if not all(key.startswith("unet.") and "lora" in key for key in state):
        pipeline.load_lora_weights(lora, weight_name=weight_name, adapter_name=adapter_name)
        return
    pipeline.load_lora_into_unet(
        state,
        network_alphas=alphas,
        unet=pipeline.unet,
        adapter_name=adapter_name,
        metadata=metadata,
        _pipeline=pipeline,
    )


def fuse_lora(pipeline: StableDiffusionXLPipeline, path: str) -> str:
    """Adds the LoRA of a file to the weights for good; returns a digest of the file.

    Raises:
        ValueError: no safetensors file, or it changes nothing.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".safetensors":
        raise ValueError(f"base_lora is {path}, allowed: an existing .safetensors file")
    before = {name: parameter.sum().item() for name, parameter in pipeline.unet.named_parameters()}
    load_lora(pipeline, str(file.parent), weight_name=file.name)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = pipeline.unet.named_parameters()
    if all(parameter.sum().item() == before[name] for name, parameter in after):
        raise ValueError(f"base_lora {path} changes nothing, allowed: a LoRA for this base model")
    return file_digest(file)[:12]
