"""Files of a base and of a CLIP tower, refused before anything is loaded where they will not do.

Torch-free; of weights only headers are read.
"""

from __future__ import annotations

from infinite_id.config import Preset, SchedulerKind
from infinite_id.model_files.files import (
    BASE_PARTS,
    SCHEDULER,
    ModelFiles,
    open_model,
    wanted_variant,
    weight_files,
)
from infinite_id.model_files.headers import read_header

__all__ = ["base_files", "check_pipeline_class", "check_scheduler", "tower_files"]

_FAMILIES = {
    "StableDiffusionPipeline": "Stable Diffusion 1 or 2",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "FLUX",
    "Flux2Pipeline": "FLUX 2",
    "PixArtSigmaPipeline": "PixArt",
    "QwenImagePipeline": "Qwen-Image",
}


def base_files(preset: Preset) -> tuple[ModelFiles, str | None]:
    """The files of a preset's base and the variant of its weights, checked as far as names,
    settings and headers tell.

    Raises:
        ValueError: one sentence: what is missing, of another family, or broken.
    """

    def check(files: ModelFiles) -> str | None:
        check_pipeline_class(files)
        check_scheduler(files, preset.sampler.scheduler)
        chosen = wanted_variant(files, BASE_PARTS, preset.dtype, preset.variant)
        channels = files.json("unet/config.json").get("in_channels", 4)
        if channels != 4:
            raise ValueError(
                f"base {files.address} has a UNet of {channels} input channels, as inpainting "
                "models have, allowed: 4"
            )
        for folder in ("tokenizer", "tokenizer_2"):
            if not any(name.startswith(f"{folder}/") for name in files.names):
                raise ValueError(f"model {files.address} has no folder {folder}")
        for part in BASE_PARTS:
            files.path(f"{part}/config.json")
            for name in weight_files(files, part, chosen):
                if files.folder is not None:
                    read_header(files.folder / name)
        return chosen

    files = open_model(preset.base, preset.base_revision, check)
    return files, check(files)


def tower_files(address: str, revision: str | None, width: int) -> ModelFiles:
    """The files of a CLIP image tower, checked as `base_files` are.

    Args:
        address: a folder or a hub id.
        revision: of the hub.
        width: of its hidden states, which the adapter was trained on.
    """

    def check(files: ModelFiles) -> None:
        settings = files.json("config.json")
        found = (settings.get("vision_config") or settings).get("hidden_size")
        if found != width:
            raise ValueError(
                f"CLIP tower {address} is {found} wide, allowed: {width}, which the adapter was "
                "trained on"
            )
        for name in weight_files(files, "", None):
            if files.folder is not None and name.endswith(".safetensors"):
                read_header(files.folder / name)

    files = open_model(address, revision, check)
    check(files)
    return files


def check_pipeline_class(files: ModelFiles) -> None:
    """Refuses a pipeline of another architecture than SDXL's, by name."""
    if "model_index.json" not in files.names:
        hint = ""
        if any(name.endswith((".safetensors", ".ckpt")) for name in files.names):
            hint = "; InfiniteIDPipeline.from_pretrained takes a checkpoint in one file"
        raise ValueError(
            f"base {files.address} has no model_index.json, allowed: a pipeline in diffusers' "
            f"layout{hint}"
        )
    name = str(files.json("model_index.json").get("_class_name"))
    if not name.startswith("StableDiffusionXL"):
        family = _FAMILIES.get(name, "another architecture's")
        raise ValueError(
            f"base {files.address} is a {family} pipeline ({name}), allowed: one of SDXL's "
            "architecture (StableDiffusionXLPipeline)"
        )


def check_scheduler(files: ModelFiles, kind: SchedulerKind) -> None:
    """Refuses a base whose noise is not what the samplers here compute with.

    Args:
        files: of the base.
        kind: of the sampler that is to be used.
    """
    stated = files.json(SCHEDULER)
    what = f"base {files.address} (scheduler {stated.get('_class_name')})"
    name = str(stated.get("_class_name"))
    if name.startswith(("EDM", "FlowMatch", "CM")):
        raise ValueError(f"{what} was trained with another noise, allowed: DDPM's, as SDXL was")
    prediction = stated.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"{what} has prediction_type {prediction!r}, allowed: epsilon, v_prediction"
        )
    if stated.get("rescale_betas_zero_snr"):
        if prediction == "epsilon":
            raise ValueError(
                f"{what} has rescale_betas_zero_snr with prediction_type epsilon, which says "
                "nothing at the first step, allowed: with v_prediction"
            )
        if not kind.endswith(("_trailing", "own")) and stated.get("timestep_spacing") != "trailing":
            raise ValueError(
                f"{what} was trained down to no signal (rescale_betas_zero_snr) and scheduler is "
                f"{kind}, which never takes that step, allowed: ddim_trailing, euler_trailing"
            )
