"""The base text-to-image model: any diffusers pipeline of SDXL's architecture, used in parts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionXLPipeline
from numpy.typing import NDArray
from torch import Tensor

from infinite_id.attention.installed import check_attention
from infinite_id.attention.processors import StreamAttnProcessor, install, stream_processors
from infinite_id.config import AttentionKind, Preset, SchedulerKind
from infinite_id.cpu import ready_for_cpu
from infinite_id.latents import encode_pictures, raw_latents
from infinite_id.model_files.bases import base_files
from infinite_id.model_files.files import BASE_PARTS, model_digest
from infinite_id.schedulers import scheduler_like
from infinite_id.weights.base_lora import fuse_lora
from infinite_id.weights.controlnet import load_controlnet
from infinite_id.weights.single_file import is_single_file, load_single_file

__all__ = ["BaseModel", "TextEmbeddings", "load_base"]


@dataclass(frozen=True, slots=True)
class TextEmbeddings:
    """Encoded texts, one row a text: `hidden` (B, L, D), `pooled` (B, P)."""

    hidden: Tensor
    pooled: Tensor


class BaseModel:
    """An SDXL-architecture pipeline that several generators share.

    Args:
        pipeline: with its components on one device.
        revision: names the weights.
        decode_slice: most pictures the VAE decodes at once.
        offload: keeps text encoders and VAE on the CPU while they are not needed; only the UNet
            stays on the device.
        adapters_of: base model that files of identity weights must name; None takes those of any,
            if their shapes fit.
        attention: kernel of self-attention.
        controlnet: that holds requests with a control picture to it; None for none.
        controlnet_digest: names its weights.
    """

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        revision: str,
        *,
        decode_slice: int = 8,
        offload: bool = False,
        adapters_of: str | None = None,
        attention: AttentionKind = "sdpa",
        controlnet: ControlNetModel | None = None,
        controlnet_digest: str | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.controlnet, self.controlnet_digest = controlnet, controlnet_digest
        self.revision = revision
        self.decode_slice = decode_slice
        self.adapters_of = adapters_of
        self.unet = pipeline.unet
        self._offload = False
        self.set_attention(attention)
        self._lock = threading.Lock()
        # Tokenizers keep padding and truncation on themselves; offloaded parts move.
        self._text_lock, self._decode_lock = threading.Lock(), threading.Lock()
        self._users = 0
        self._installed: Any = None
        if offload:
            self.offload()

    def set_attention(self, kind: AttentionKind) -> None:
        """From now on self-attention has that kernel."""
        self._attention: AttentionKind = kind
        self._processors = stream_processors(self.unet, kind)

    def offload(self) -> None:
        """From now on only the UNet stays on the device."""
        self._offload = True
        for part in (self.pipeline.text_encoder, self.pipeline.text_encoder_2, self.pipeline.vae):
            part.to("cpu")

    @property
    def held_revision(self) -> str:
        """Names all that pictures are made with: trained weights are bound to `revision` alone,
        and fit with any ControlNet or none."""
        if self.controlnet_digest is None:
            return self.revision
        return f"{self.revision}+control-{self.controlnet_digest}"

    @property
    def offloads(self) -> bool:
        """Whether parts wait on the CPU."""
        return self._offload

    def sharing(self, pipeline: StableDiffusionXLPipeline) -> BaseModel:
        """A base over another UNet and this one's text encoders and VAE."""
        made = BaseModel(
            pipeline,
            self.revision,
            decode_slice=self.decode_slice,
            offload=self._offload,
            adapters_of=self.adapters_of,
            attention=self._attention,
        )
        made._text_lock, made._decode_lock = self._text_lock, self._decode_lock
        return made

    @property
    def device(self) -> torch.device:
        """Of the UNet."""
        return self.unet.device

    @contextmanager
    def _on_device(self, *parts: Any) -> Iterator[None]:
        if not self._offload:
            yield
            return
        try:
            for part in parts:
                part.to(self.device)
            yield
        finally:
            for part in parts:
                part.to("cpu")

    @contextmanager
    def text_encoders(self) -> Iterator[tuple[Any, Any]]:
        """Both text encoders, on the device and for one thread."""
        encoders = (self.pipeline.text_encoder, self.pipeline.text_encoder_2)
        with self._text_lock, self._on_device(*encoders):
            yield encoders

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet."""
        return self.unet.dtype

    @property
    def vae_factor(self) -> int:
        """Pixels of a latent pixel's side."""
        return int(self.pipeline.vae_scale_factor)

    @contextmanager
    def streams(self) -> Iterator[None]:
        """The stream processors, installed while any caller is inside, from any thread."""
        with self._lock:
            if self._users == 0:
                self._installed = install(self.unet, self._processors)
                self._installed.__enter__()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._installed.__exit__(None, None, None)

    @property
    def has_streams(self) -> bool:
        """Whether the stream processors are installed now."""
        first = next(iter(self.unet.attn_processors.values()))
        return isinstance(first, StreamAttnProcessor)

    def scheduler(self, kind: SchedulerKind, steps: int) -> Any:
        """A fresh scheduler with its timesteps set; schedulers keep state between steps."""
        return scheduler_like(self.pipeline.scheduler, kind, steps)

    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """Encodes texts.

        Raises:
            ValueError: a text has more tokens than the encoders take; it is never cut in silence.
        """
        with self.text_encoders():
            for text in texts:
                self._check_length(text)
            hidden, _, pooled, _ = self.pipeline.encode_prompt(
                prompt=list(texts),
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        return TextEmbeddings(hidden, pooled)

    def encode_negative(self, texts: Sequence[str]) -> TextEmbeddings:
        """Encodes negative prompts; an empty one is zeros where the base was trained so."""
        encoded = self.encode(texts)
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return encoded
        empty = torch.tensor([text == "" for text in texts], device=self.device)
        return TextEmbeddings(
            encoded.hidden.masked_fill(empty[:, None, None], 0.0),
            encoded.pooled.masked_fill(empty[:, None], 0.0),
        )

    def _check_length(self, text: str) -> None:
        for tokenizer in (self.pipeline.tokenizer, self.pipeline.tokenizer_2):
            count = len(tokenizer(text, truncation=False, verbose=False).input_ids)
            if count > tokenizer.model_max_length:
                shown = text if len(text) <= 60 else f"{text[:57]}..."
                raise ValueError(
                    f"prompt {shown!r} has {count} tokens, allowed: "
                    f"{tokenizer.model_max_length} with begin and end"
                )

    def noise(self, seed: int, height: int, width: int) -> Tensor:
        """Standard normal (4, H / f, W / f), float32, from a CPU generator of that seed."""
        generator = torch.Generator("cpu").manual_seed(seed)
        factor = self.vae_factor
        shape = (self.unet.config.in_channels, height // factor, width // factor)
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    def time_ids(self, height: int, width: int) -> Tensor:
        """SDXL's size conditioning (6,): original size, crop corner (0, 0), target size."""
        values = [height, width, 0, 0, height, width]
        return torch.tensor(values, device=self.device, dtype=self.dtype)

    @contextmanager
    def precise_vae(self) -> Iterator[Any]:
        """The VAE on the device, in single precision where half overflows; one caller at a time."""
        vae = self.pipeline.vae
        with self._decode_lock, self._on_device(vae):
            # SDXL's own VAE overflows in float16. There and back loses nothing.
            upcast = vae.config.force_upcast and vae.dtype == torch.float16
            if upcast:
                vae.to(torch.float32)
            try:
                yield vae
            finally:
                if upcast:
                    vae.to(torch.float16)

    def encode_pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Pictures uint8 (H, W, 3) of one size -> latents (B, C, h, w), float32, as the UNet sees
        them."""
        with self.precise_vae() as vae:
            return encode_pictures(vae, pictures)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[NDArray[np.uint8]]:
        """Latents (B, C, h, w) -> B pictures, uint8 (H, W, 3) RGB, in slices of `decode_slice`."""
        pictures: list[NDArray[np.uint8]] = []
        with self.precise_vae() as vae:
            raw = raw_latents(vae, latents.to(vae.dtype))
            for part in raw.split(self.decode_slice):
                decoded = vae.decode(part, return_dict=False)[0]
                pixels = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round()
                pictures.extend(pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return pictures


def load_base(
    preset: Preset,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    compile: bool | None = None,
    offload: bool | None = None,
    variant: str | None = None,
    config: str | Path | None = None,
) -> BaseModel:
    """The base model of a preset, with `preset.base_lora` fused in.

    Args:
        preset: names a hub id, a folder, a checkpoint in one file, or "pocket".
        device: torch device.
        dtype: by default the preset's, `dtype` on a GPU and `cpu_dtype` on a CPU.
        compile, offload, variant: in place of the preset's.
        config: of a checkpoint in one file, see `infinite_id.weights.single_file`.

    Raises:
        ValueError: there is no such pipeline, LoRA or ControlNet, or it does not fit; one sentence.
    """
    if variant is not None:
        preset = replace(preset, variant=variant)
    compile = preset.compile if compile is None else compile
    offload = preset.offload if offload is None else offload
    if dtype is None:
        dtype = getattr(torch, preset.cpu_dtype if device == "cpu" else preset.dtype)
    check_attention(preset.attention, device, str(dtype).removeprefix("torch."))
    named: str | None = None
    if preset.base == "pocket":
        from infinite_id.pocket import model as pocket

        # What is shipped with its base fits it; its revision counts the adapters too, so that it
        # cannot be compared with the one in a file.
        pipeline, revision = pocket.load_pipeline(dtype), pocket.revision()
    elif is_single_file(preset.base):
        pipeline, revision = load_single_file(preset.base, config=config, dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
    else:
        files, variant = base_files(preset)
        try:
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                preset.base if files.folder is None else files.folder,
                revision=preset.base_revision,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                add_watermarker=False,
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"base model {preset.base} (revision {preset.base_revision}) cannot be loaded: "
                f"{reason}"
            ) from error
        revision = named = f"sdxl-{model_digest(files, BASE_PARTS, variant)}"
        pipeline.set_progress_bar_config(disable=True)
    if preset.base_lora is not None:
        revision = f"{revision}+lora-{fuse_lora(pipeline, preset.base_lora)}"
    controlnet: ControlNetModel | None = None
    digest: str | None = None
    if preset.controlnet is not None:
        controlnet, digest = load_controlnet(preset, pipeline.unet, dtype)
        controlnet.to(device)
    pipeline.to(device)
    if torch.device(device).type == "cpu":
        ready_for_cpu(pipeline)
    if compile:
        # In place: the module stays the object whose layers are looked up by name.
        pipeline.unet.compile(fullgraph=True)
    return BaseModel(
        pipeline,
        revision,
        decode_slice=preset.decode_slice,
        offload=offload,
        adapters_of=named,
        attention=preset.attention,
        controlnet=controlnet,
        controlnet_digest=digest,
    )
