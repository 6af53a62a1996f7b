"""Editors that take reference pictures, as baselines: FLUX.2 klein, Qwen-Image-Edit.

They are whole pipelines of diffusers, loaded from a folder in its layout; the run's base is not
theirs. The reference pictures are the person's aligned faces, the same that every method here is
given, enlarged; editors that see whole photos may do better than these numbers say. Pictures are
made one by one: diffusers takes one set of reference pictures a call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from infinite_id.baselines.config import EditorConfig
from infinite_id.config import Preset
from infinite_id.loaded import loaded_once
from infinite_id.methods import MethodSpec, trained_weights
from infinite_id.types import (
    CancelledError,
    GeneratedImage,
    GenerationRequest,
    Generator,
    Identity,
    PreviewHook,
)

__all__ = ["EditorGenerator", "editor"]


class EditorGenerator:
    """A pipeline of diffusers that edits reference pictures by a text.

    Args:
        pipeline: called with image, prompt, height, width, num_inference_steps, generator, and the
            guidance under the name that `config` says.
        config: how it is called.
        revision: names the weights and the settings.
        steps: of denoising where a request names none.
        guidance: where a request names none.
    """

    def __init__(
        self, pipeline: Any, config: EditorConfig, revision: str, *, steps: int, guidance: float
    ) -> None:
        self.pipeline = pipeline
        self.config = config
        self.revision = revision
        self._steps, self._guidance = steps, guidance

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        identities: Mapping[str, Identity],
        *,
        on_step: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        previews: PreviewHook | None = None,
    ) -> list[GeneratedImage]:
        """See `infinite_id.types.Generator`; one picture at a time, no previews.

        Raises:
            ValueError: a request mixes or groups people, begins with a picture, or its person is
                missing.
            CancelledError: see `Generator`.
        """
        for request in requests:
            if request.mix is not None or request.group is not None:
                kind = "a mix" if request.mix is not None else "a group"
                raise ValueError(
                    f"method {request.method} is asked for {kind}, allowed: one person a picture"
                )
            for name in ("init_image", "control_image"):
                if getattr(request, name) is not None:
                    raise ValueError(
                        f"method {request.method} is given {name.removeprefix('init_')}, allowed "
                        "with it: none; its own reference pictures are the person's faces"
                    )
            if request.identity_id not in identities:
                raise ValueError(f"identity {request.identity_id!r} is missing, allowed: all given")
        return [self._one(r, identities[r.identity_id], on_step, should_stop) for r in requests]

    def _one(
        self,
        request: GenerationRequest,
        person: Identity,
        on_step: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> GeneratedImage:
        steps = request.num_inference_steps or self._steps

        def after(pipeline: Any, step: int, timestep: Any, tensors: dict) -> dict:
            if on_step is not None:
                on_step(step + 1, steps)
            if should_stop is not None and should_stop():
                raise CancelledError(f"stopped after step {step + 1} of {steps}")
            return tensors

        guidance = self._guidance if request.guidance_scale is None else request.guidance_scale
        options: dict[str, Any] = {self.config.guidance: guidance}
        if self.config.takes_negative:
            options["negative_prompt"] = request.negative_prompt or " "
        begin = time.perf_counter()
        with torch.inference_mode():
            made = self.pipeline(
                image=self._references(person),
                prompt=self.config.instruction.format(prompt=request.prompt),
                height=request.height,
                width=request.width,
                num_inference_steps=steps,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                callback_on_step_end=after,
                **options,
            ).images[0]
        size = (request.width, request.height)
        if made.size != size:  # editors round to multiples of their own
            made = made.resize(size, Image.Resampling.LANCZOS)
        picture = np.asarray(made.convert("RGB"))
        return GeneratedImage(request.sample_id, picture, time.perf_counter() - begin)

    def _references(self, person: Identity) -> list[Image.Image]:
        size = (self.config.reference_size, self.config.reference_size)
        chosen = person.images[: self.config.most_references]
        return [Image.fromarray(one).resize(size, Image.Resampling.BICUBIC) for one in chosen]


def editor(spec: MethodSpec, preset: Preset, device: str) -> Generator:
    """The factory of `METHODS`.

    Raises:
        ValueError: no folder is given, it holds another pipeline, or it does not load.
    """
    from infinite_id.weights.places import weights_digest

    config: EditorConfig = spec.config
    address = trained_weights(spec, preset)
    name = spec.weights[0]
    if address is None:
        raise RuntimeError("a method with weights of its own was loaded without them")
    folder = Path(address)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"weights {name} are {address!r}, allowed: a folder with model_index.json")
    kind = json.loads(index.read_text("utf-8")).get("_class_name")
    if kind not in config.pipelines:
        raise ValueError(
            f"weights {name} are {address!r} of the pipeline {kind}, allowed: "
            f"{' or '.join(config.pipelines)}"
        )
    digest = weights_digest(str(folder))[:12]
    pipeline = loaded_once((name, str(folder), digest, device), lambda: _load(kind, folder, device))
    sampler = preset.sampler
    return EditorGenerator(
        pipeline,
        config,
        f"{name}-{digest}",
        steps=sampler.num_inference_steps,
        guidance=sampler.guidance_scale,
    )


def _load(kind: str, folder: Path, device: str) -> Any:
    import diffusers

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(folder, dtype=dtype)
    except (ImportError, OSError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"weights in {str(folder)!r} do not load as {kind}: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
