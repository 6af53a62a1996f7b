"""Two-stream denoising against the obvious two-pass loop, diffusers' IP-Adapter and plain SDXL.

All four share one UNet, run in turn in one process, and begin with encoded texts and end with
latents; ratios are taken within a round and their median reported, so that a busy machine touches
both sides. Weights may be random: speed does not depend on them. Needs torch and diffusers alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.two_pass import two_pass
from infinite_id.attention.processors import attention_layers, cross_attention_layers
from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.config import FusionConfig, Preset, SamplerConfig, preset, profiled
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.sampler.batch import StreamBatch
from infinite_id.sampler.denoise import denoise

__all__ = ["run"]

_SDXL_UNET = Path(__file__).parent / "sdxl_unet.json"


class _EncodedTexts(BaseModel):
    """A base whose texts are encoded already: random hidden states, the same for one text."""

    def encode(self, texts: Sequence[str]) -> TextEmbeddings:
        """See `BaseModel.encode`."""
        config = self.unet.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        generator = torch.Generator().manual_seed(len(texts[0]))
        hidden = torch.randn((1, 77, config.cross_attention_dim), generator=generator)
        whole = torch.randn((1, pooled), generator=generator)
        return TextEmbeddings(
            *(
                x.to(self.device, self.dtype).repeat(len(texts), *[1] * (x.ndim - 1))
                for x in (hidden, whole)
            )
        )

    def encode_negative(self, texts: Sequence[str]) -> TextEmbeddings:
        """See `BaseModel.encode_negative`."""
        return self.encode(texts)


class _Bench:
    """One model and the four ways to use it."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.device = torch.device(arguments["device"])
        self.dtype = getattr(torch, arguments["dtype"])
        self.size = int(arguments["size"])
        family = profiled(preset(arguments["model"]), arguments["profile"])
        own = SamplerConfig(num_inference_steps=arguments["steps"])
        # A profile has steps of its own, which make its speed.
        self.sampler = replace(
            own if arguments["profile"] == "full" else family.sampler,
            guidance_steps=tuple(arguments["guidance_steps"]),
        )
        self.fusion = FusionConfig(
            fusion=arguments["fusion"], identity_steps=tuple(arguments["identity_steps"])
        )
        pipeline = _pipeline(family, self.device, self.dtype)
        if arguments["compile"]:
            pipeline.unet.compile(fullgraph=True)
        self.base = _EncodedTexts(pipeline, "benchmark", decode_slice=1 if self.size >= 512 else 8)
        self.adapter = IdentityAdapter(family.adapter, pipeline.unet)
        self.adapter = self.adapter.to(self.device, self.dtype).eval()
        self.identity_tokens = family.encoders.clip_tokens + family.adapter.face_tokens
        self._ip_processors, self._ip_projection = self._load_ip_adapter(family)

    def batch(self, count: int) -> StreamBatch:
        """N identities in one text group."""
        width = self.base.unet.config.cross_attention_dim
        generator = torch.Generator().manual_seed(0)
        shape = (count + 1, self.identity_tokens, width)
        tokens = torch.randn(shape, generator=generator).to(self.device, self.dtype)
        return StreamBatch(
            prompts=["a man on the beach"] * count,
            negative_prompts=["blurry"] * count,
            seeds=[0] * count,
            guidance_scales=[5.0] * count,
            height=self.size,
            width=self.size,
            tokens=list(tokens[:count]),
            null_tokens=tokens[count],
        )

    def two_stream(self, batch: StreamBatch) -> Tensor:
        """Ours."""
        return denoise(self.base, self.adapter, batch, self.fusion, self.sampler).latents

    def two_pass(self, batch: StreamBatch) -> Tensor:
        """The obvious one."""
        return two_pass(self.base, self.adapter, batch, self.sampler)

    def plain(self, batch: StreamBatch) -> Tensor:
        """diffusers' SDXL pipeline, no identity."""
        return self._diffusers(batch)

    def ip_adapter(self, batch: StreamBatch) -> Tensor:
        """diffusers' SDXL pipeline with an IP-Adapter of as many identity tokens.

        Its batches hold one identity; the cost is that of several.
        """
        tokens = batch.tokens
        assert tokens is not None  # noqa: S101 -- narrows the type
        first = tokens[0]
        assert isinstance(first, Tensor)  # noqa: S101 -- narrows the type
        pair = torch.stack([torch.zeros_like(first), first])[:, None]
        with self._ip_adapter_on():
            return self._diffusers(batch, ip_adapter_image_embeds=[pair])

    def _diffusers(self, batch: StreamBatch, **arguments: Any) -> Tensor:
        pipe = self.base.pipeline
        pipe.scheduler = self.base.scheduler(
            self.sampler.scheduler, self.sampler.num_inference_steps
        )
        negative, positive = (
            self.base.encode(batch.negative_prompts),
            self.base.encode(batch.prompts),
        )
        noise = [self.base.noise(seed, batch.height, batch.width) for seed in batch.seeds]
        with torch.inference_mode():
            return pipe(
                prompt_embeds=positive.hidden,
                pooled_prompt_embeds=positive.pooled,
                negative_prompt_embeds=negative.hidden,
                negative_pooled_prompt_embeds=negative.pooled,
                num_inference_steps=self.sampler.num_inference_steps,
                guidance_scale=batch.guidance_scales[0],
                height=batch.height,
                width=batch.width,
                latents=torch.stack(noise).to(self.device, self.dtype),
                output_type="latent",
                **arguments,
            ).images

    def _load_ip_adapter(self, family: Preset) -> tuple[dict[str, Any], Any]:
        """(processors, projection) of an IP-Adapter that maps token by token, as ours does."""
        unet: Any = self.base.unet
        width = unet.config.cross_attention_dim
        numbers = {name: number for number, name in enumerate(attention_layers(unet))}
        image = self.adapter.image
        state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for layer in cross_attention_layers(unet):
            for part, modules in (("k", image.to_k), ("v", image.to_v)):
                weight = modules[layer.replace(".", "/")].get_parameter("weight")
                state["ip_adapter"][f"{numbers[layer]}.to_{part}_ip.weight"] = weight.detach()
        for name, shape in (
            ("proj.0", (width, width)),
            ("proj.2", (width, width)),
            ("proj.3", (width,)),
        ):
            state["image_proj"][f"{name}.weight"] = torch.zeros(shape)
            state["image_proj"][f"{name}.bias"] = torch.zeros(width)
        plain = dict(unet.attn_processors)
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
        made = dict(unet.attn_processors), unet.encoder_hid_proj.to(self.device, self.dtype)
        self._switch(plain, None)
        return made

    @contextlib.contextmanager
    def _ip_adapter_on(self) -> Iterator[None]:
        plain = dict(self.base.unet.attn_processors)
        self._switch(dict(self._ip_processors), self._ip_projection)
        try:
            yield
        finally:
            self._switch(plain, None)

    def _switch(self, processors: dict[str, Any], projection: Any) -> None:
        unet: Any = self.base.unet
        unet.set_attn_processor(processors)
        unet.encoder_hid_proj = projection
        unet.config.encoder_hid_dim_type = None if projection is None else "ip_image_proj"

    def seconds(self, way: Callable[[StreamBatch], Tensor], batch: StreamBatch) -> float:
        """Of one call."""
        self.wait()
        begin = time.perf_counter()
        way(batch)
        self.wait()
        return time.perf_counter() - begin

    def wait(self) -> None:
        """For the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _to(module: Any, device: torch.device, dtype: torch.dtype) -> Any:
    # diffusers' own `to` warns of layers to keep in single precision, of which there are none.
    return torch.nn.Module.to(module, device, dtype).eval()


def _pipeline(
    family: Preset, device: torch.device, dtype: torch.dtype
) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    if family.base == "pocket":
        from infinite_id.pocket import model as pocket

        unet: Any = pocket.build_unet()
        vae: Any = pocket.build_vae()
    else:
        with torch.device(device):
            unet = UNet2DConditionModel.from_config(json.loads(_SDXL_UNET.read_text()))
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                sample_size=1024,
                scaling_factor=0.13025,
                force_upcast=False,
            )
    pipeline = StableDiffusionXLPipeline(
        vae=_to(vae, device, dtype),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=_to(unet, device, dtype),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Measures each way at each N.

    Args:
        arguments: model (a preset's name), size (pixels), counts (of N), ways, steps, device,
            dtype, threads (on a CPU), repeats, compile; profile, with steps of its own where it is
            not "full"; fusion, guidance_steps and identity_steps of two_stream, see `FusionConfig`
            and `SamplerConfig`.

    Returns:
        By N: images/s of each way; `speedup`, two_pass / two_stream; `cost_against_ip_adapter`
        and `cost_against_plain`, two_stream / those; and of two_stream the UNet's milliseconds a
        step, the shares of time in the UNet and outside, seconds of decoding; on CUDA peak memory
        and model FLOP utilisation against a measured matmul.
    """
    torch.set_num_threads(arguments["threads"])
    _hold_memory(arguments["device"])
    bench = _Bench(arguments)
    ways = {name: getattr(bench, name) for name in arguments["ways"]}
    figures: dict[str, Any] = {"matmul_tflops": _matmul_tflops(bench)}
    for count in arguments["counts"]:
        batch = bench.batch(count)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        few = min(2, bench.sampler.num_inference_steps)
        short = replace(bench.sampler, num_inference_steps=few)
        full, bench.sampler = bench.sampler, short
        for way in ways.values():
            bench.seconds(way, batch)
        bench.sampler = full
        for _ in range(arguments["repeats"]):
            for name, way in ways.items():
                seconds[name].append(bench.seconds(way, batch))
        for name, found in seconds.items():
            figures[f"{name}_images_per_s_{count}"] = count / statistics.median(found)
        for name, over, under in (
            ("speedup", "two_pass", "two_stream"),
            ("cost_against_ip_adapter", "two_stream", "ip_adapter"),
            ("cost_against_plain", "two_stream", "plain"),
        ):
            if over in ways and under in ways:
                pairs = zip(seconds[over], seconds[under], strict=True)
                figures[f"{name}_{count}"] = statistics.median(a / b for a, b in pairs)
        figures |= {f"{name}_{count}": value for name, value in _split(bench, batch).items()}
    if bench.device.type == "cpu":
        figures["process_peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return figures


def _hold_memory(device: str) -> None:
    """A smaller card than there is: INFINITE_ID_BENCHMARK_MEMORY_GB bounds the allocator."""
    wanted = os.environ.get("INFINITE_ID_BENCHMARK_MEMORY_GB")
    if wanted and device.startswith("cuda"):
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, float(wanted) * 1e9 / whole))


def _split(bench: _Bench, batch: StreamBatch) -> dict[str, float]:
    """Where two_stream's time goes, from one more run with clocks around the UNet.

    Nothing with `reuse_steps`, whose steps do not go through the UNet's own forward pass.
    """
    if bench.sampler.reuse_steps > 1:
        return {}
    marks: list[float] = []

    def mark(*_: Any) -> None:
        bench.wait()
        marks.append(time.perf_counter())

    unet: Any = bench.base.unet
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    handles = [unet.register_forward_pre_hook(mark), unet.register_forward_hook(mark)]
    begin = time.perf_counter()
    latents = bench.two_stream(batch)
    bench.wait()
    total = time.perf_counter() - begin
    for handle in handles:
        handle.remove()
    in_unet = sum(marks[1::2]) - sum(marks[::2])
    steps = len(marks) // 2
    found = {
        "unet_ms_a_step": 1000 * in_unet / steps,
        "share_before_steps": (marks[0] - begin) / total,
        "share_in_unet": in_unet / total,
        "share_between_steps": (total - in_unet - (marks[0] - begin)) / total,
    }
    if bench.device.type == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    begin = time.perf_counter()
    bench.base.decode(latents)
    found["decode_seconds"] = time.perf_counter() - begin
    found["unet_tflop_a_step"] = _tflop_a_step(bench, batch)
    tflops = found["unet_tflop_a_step"] / (in_unet / steps)
    found["model_flop_utilisation"] = tflops / _matmul_tflops(bench)
    return found


def _tflop_a_step(bench: _Bench, batch: StreamBatch) -> float:
    sampler, bench.sampler = bench.sampler, replace(bench.sampler, num_inference_steps=1)
    counts: list[float] = []
    unet: Any = bench.base.unet
    counter = FlopCounterMode(display=False)
    handles = [
        unet.register_forward_pre_hook(lambda *_: counts.append(counter.get_total_flops())),
        unet.register_forward_hook(lambda *_: counts.append(counter.get_total_flops())),
    ]
    # Compiled code hides its operations from the counter.
    with torch.compiler.set_stance("force_eager"), counter:
        bench.two_stream(batch)
    for handle in handles:
        handle.remove()
    bench.sampler = sampler
    return (counts[1] - counts[0]) / 1e12


def _matmul_tflops(bench: _Bench) -> float:
    """The device's own ceiling: the best of a few square products."""
    side = 8192 if bench.device.type == "cuda" else 1024
    a = torch.randn((side, side), device=bench.device, dtype=bench.dtype)
    best = float("inf")
    for _ in range(10):
        bench.wait()
        begin = time.perf_counter()
        a @ a
        bench.wait()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best / 1e12
