"""InfiniteIDPipeline: photos, prompts and styles to pictures in a few lines, as diffusers has it.

It holds the base model and the generators of METHODS that the actors of the batch pipeline hold,
and calls them in the same way: a request gives the same picture here and there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ControlNetModel, StableDiffusionXLPipeline
from numpy.typing import NDArray
from torch import Tensor

from infinite_id.attention.installed import check_attention
from infinite_id.base import BaseModel
from infinite_id.config import AttentionKind, EncoderConfig, FusionConfig, Preset, SamplerConfig
from infinite_id.control_image import ControlStreams
from infinite_id.details_config import DetailsConfig, details_of
from infinite_id.generator import InfiniteIdGenerator, TextOnlyGenerator
from infinite_id.identity.encoders import IdentityEncoder, load_identity_encoder
from infinite_id.interface.call import Call, one_each
from infinite_id.interface.devices import OnDevice, move
from infinite_id.interface.mixes import Regions
from infinite_id.interface.output import InfiniteIDOutput
from infinite_id.interface.people import People, Somebody
from infinite_id.interface.pixels import Picture
from infinite_id.interface.pretrained import Given, check_trained, loaded, over
from infinite_id.interface.run import OUTPUTS, OutputType, pictures_of, within
from infinite_id.interface.with_people import WithPeople
from infinite_id.methods import METHODS, load_generators
from infinite_id.timed import TimedGenerator
from infinite_id.types import Generator

__all__ = ["InfiniteIDPipeline"]

StepCallback = Callable[["InfiniteIDPipeline", int, Tensor, dict[str, Tensor]], Any]


class InfiniteIDPipeline(OnDevice, WithPeople):
    """Made by `from_pretrained` or `from_pipe`. One thread at a time.

    Attributes:
        preset: sizes, encoders and defaults.
        base: the text-to-image model.
    """

    def __init__(self, family: Preset, base: BaseModel) -> None:
        self.preset, self.base = family, base
        self._generators: dict[str, Generator] = {}
        super().__init__(People(self._load_encoder))
        self._bar: dict[str, Any] = {}
        self._interrupt = False
        self._place = (base.device, base.dtype)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "pocket",
        *,
        adapter: str | Path | None = None,
        encoders: str | EncoderConfig | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        config: str | Path | None = None,
        base_lora: str | Path | None = None,
        weights: Mapping[str, str | Path] | None = None,
        profile: str = "full",
        sampler: SamplerConfig | None = None,
        fusion: FusionConfig | None = None,
        attention: AttentionKind = "sdpa",
        controlnet: str | Path | ControlNetModel | None = None,
    ) -> Self:
        """Loads a base model and identity weights, onto the CPU.

        Args:
            name: a preset ("pocket", "sdxl_plus_face", ...), a folder or hub id of a pipeline of
                SDXL's architecture, or an SDXL checkpoint in one .safetensors file.
            adapter: identity weights: a file, hub://OWNER/NAME@REVISION/FILE, or the name of a
                preset that has some; by default the preset's own.
            encoders: those that the adapter was trained with, or the name of a preset that has
                them; by default those of the preset that names the adapter, of public files
                "sdxl_plus_face"'s, otherwise `name`'s.
            dtype: of the weights; by default the preset's, `dtype` where this machine has a GPU and
                else `cpu_dtype`.
            variant: of the base's files, such as "fp16".
            revision: of the base on the hub.
            config: of a checkpoint in one file: folder or hub id of a pipeline with the settings
                and tokenizers that the file lacks; by default SDXL's own on the hub.
            base_lora: safetensors file fused into the base.
            weights: files of other methods: {"photomaker": FILE, "dreambooth": FOLDER, ...}.
            profile: "fast" or "faster" leave out steps and work, see `infinite_id.config.PROFILES`.
            sampler: scheduler, steps and guidance in place of the preset's.
            fusion: settings of the two streams in place of the preset's.
            attention: kernel of self-attention: torch's "sdpa"; "flash" or "sage" where the
                packages flash-attn or sageattention are installed, on a GPU in half precision.
            controlnet: a folder or hub id of one of SDXL's, or diffusers' model.

        Raises:
            ValueError: something cannot be loaded, does not fit, or was not trained.
        """
        family, base = loaded(
            name,
            Given(adapter, encoders, weights, sampler, fusion, attention, controlnet),
            dtype=dtype,
            variant=variant,
            revision=revision,
            config=config,
            base_lora=base_lora,
            profile=profile,
        )
        return cls._ready(family, base)

    @classmethod
    def from_pipe(
        cls,
        pipe: StableDiffusionXLPipeline,
        *,
        adapter: str | Path | None = None,
        encoders: str | EncoderConfig | None = None,
        weights: Mapping[str, str | Path] | None = None,
        sampler: SamplerConfig | None = None,
        fusion: FusionConfig | None = None,
        attention: AttentionKind = "sdpa",
        controlnet: str | Path | ControlNetModel | None = None,
    ) -> Self:
        """Over a pipeline that the caller has loaded, with its checkpoint, LoRAs and scheduler.

        The modules are shared. After each call they are as they were before it.

        Args:
            pipe: without an IP-Adapter and without offloading.
            adapter, encoders, weights, fusion, attention, controlnet: see `from_pretrained`.
            sampler: by default the pipe's own scheduler, 30 steps, guidance 5.

        Raises:
            ValueError: a pipeline of another kind, or weights that do not fit.
        """
        family, base = over(
            pipe, Given(adapter, encoders, weights, sampler, fusion, attention, controlnet)
        )
        return cls._ready(family, base)

    @classmethod
    def _ready(cls, family: Preset, base: BaseModel) -> Self:
        made = cls(family, base)
        if family.base == "pocket" or family.adapter_path is not None:
            made._generator("infinite_id")  # now, and not in the first call
        return made

    def __call__(
        self,
        prompt: str | Sequence[str],
        identity: Somebody | Sequence[Somebody] | None = None,
        *,
        regions: Regions | Sequence[Regions | None] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        style: str | Sequence[str] | None = None,
        method: str = "infinite_id",
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        guidance_start: float | None = None,
        guidance_end: float | None = None,
        identity_scale: float | Sequence[float] | None = None,
        identity_start: float | None = None,
        identity_end: float | None = None,
        image: Picture | Sequence[Picture | None] | None = None,
        mask_image: Picture | Sequence[Picture | None] | None = None,
        strength: float | Sequence[float | None] | None = None,
        control_image: Picture | Sequence[Picture | None] | None = None,
        control_keypoints: NDArray[Any] | Sequence[NDArray[Any] | None] | None = None,
        controlnet_conditioning_scale: float | Sequence[float | None] | None = None,
        control_guidance_start: float | Sequence[float | None] | None = None,
        control_guidance_end: float | Sequence[float | None] | None = None,
        control_streams: ControlStreams | Sequence[ControlStreams | None] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        details: bool | DetailsConfig = False,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> InfiniteIDOutput:
        """Makes pictures.

        One prompt, identity, style ... counts for all; a list has one a picture. Pictures of equal
        text, guidance and seed share their text stream.

        Args:
            prompt: may hold {subject}, which becomes the identity's class word.
            identity: who is in the picture: a photo (path, bytes, PIL, uint8 array), an `Identity`
                or its file, a mix. In a list each stands for one picture; a list within the list
                is several photos of one person, or with `regions` several people: a group.
            regions: of groups: one set of regions a picture, see `group`, None for a picture of
                one person. "auto" counts for every picture.
            negative_prompt: in place of the style's own.
            style: a name of the style sheet (`infinite-id styles`); its words follow the prompt.
            method: of METHODS.
            num_inference_steps, guidance_scale: by default the preset's sampler's.
            guidance_start, guidance_end: fractions of the steps, in [0, 1], between which guidance
                acts.
            identity_scale: strength of the identity, by default 1; 0 switches it off.
            identity_start, identity_end: fractions of the steps between which the identity acts.
            image: that the picture begins with (docs/image_to_image.md), in any form of a photo; in
                a list None for pictures that begin with noise.
            mask_image: of the image's size; white is made anew, black is kept.
            strength: share of the steps that are taken from the image on, in (0, 1], by default
                0.8; 1 keeps the least of it.
            control_image: that the `controlnet` holds the picture to (docs/control.md).
            control_keypoints: in its place, (5, 2): x and y of eyes, nose and corners of the mouth,
                left to right as seen, in fractions of the picture; drawn as InstantID draws them.
            controlnet_conditioning_scale, control_guidance_start, control_guidance_end: how much,
                and between which fractions of the steps; by default 1, 0 and 1.
            control_streams: "both", or "text": the text stream alone, whose keys and values carry
                it to the identity's.
            height, width: pixels, by default the preset's.
            num_images_per_prompt: pictures of each prompt, one after another.
            details: small faces are made again (docs/details.md), not with output_type "latent".
            seed: of the initial noise. Pictures that would be equal otherwise have seed, seed + 1,
                ...; others have the same noise. By default it is drawn from torch's own generator.
            generator: in place of `seed`: each picture's seed is drawn from it; or one a picture.
            output_type: see `InfiniteIDOutput.images`.
            callback_on_step_end: called as f(pipe, step, timestep, {"latents": (N, 4, h, w)})
                after each step; "latents" of a dictionary that it returns, or that it changes in
                place, stand in their place.
                It may set `pipe._interrupt = True`, which ends denoising. Pictures with and
                without guidance are denoised one group after the other.

        Raises:
            ValueError: one sentence that names the argument, its value and what is allowed.
        """
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type is {output_type!r}, allowed: {', '.join(OUTPUTS)}")
        self._follow()
        guidance, interval = (guidance_start, guidance_end), (identity_start, identity_end)
        made_by = within(self._generator(method), method, guidance, interval)
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise ValueError(
                f"callback_on_step_end is {callback_on_step_end!r}, allowed: a function, or None"
            )
        rows = one_each(
            prompt=prompt,
            identity=identity,
            regions=regions,
            negative_prompt=negative_prompt,
            style=style,
            guidance_scale=guidance_scale,
            identity_scale=identity_scale,
            image=image,
            mask_image=mask_image,
            strength=strength,
            control_image=control_image,
            control_keypoints=control_keypoints,
            controlnet_conditioning_scale=controlnet_conditioning_scale,
            control_guidance_start=control_guidance_start,
            control_guidance_end=control_guidance_end,
            control_streams=control_streams,
            seed=seed,
        )
        nobody = any(row["identity"] is None for row in rows)
        if nobody and not isinstance(made_by, TextOnlyGenerator | TimedGenerator):
            raise ValueError(
                f"identity is None, allowed with method {method!r}: a photo, an Identity, a mix, "
                "or a list of them; method 'text_only' shows nobody"
            )
        shared = {
            "method": method,
            "num_inference_steps": num_inference_steps,
            "height": height,
            "width": width,
        }
        call = Call(rows, num_images_per_prompt, shared, generator, self._people, self.preset)
        self._interrupt = False
        images, pixels = pictures_of(
            made_by,
            call,
            output_type,
            self.device,
            self._bar,
            None if callback_on_step_end is None else partial(callback_on_step_end, self),
            lambda: self._interrupt,
            details_of(details),
        )
        return InfiniteIDOutput(
            images,
            call.identities,
            [request.seed for request in call.requests],
            [request.prompt for request in call.requests],
            call.words,
            call.regions,
            self.preset.name,
            pixels,
        )

    def to(
        self,
        *where: str | torch.device | torch.dtype,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Moves all weights to a device and, or, a dtype; returns this pipeline.

        Args:
            where: device, dtype, or both.
            device, dtype: the same by name.

        Raises:
            ValueError: the device cannot be used.
        """
        move(self.base, (*where, *(one for one in (device, dtype) if one is not None)))
        if self.base.offloads:
            self.base.offload()
        for name, made in list(self._generators.items()):
            if isinstance(made, InfiniteIdGenerator) and isinstance(made.adapter, torch.nn.Module):
                made.adapter.to(self.base.device, self.base.dtype)
            elif not isinstance(made, TextOnlyGenerator):
                # Baselines hold layers of their own over the base; they are loaded again.
                del self._generators[name]
        self._people.forget()
        self._place = (self.base.device, self.base.dtype)
        return self

    def _follow(self) -> None:
        """Goes where the owner of the base's pipeline has moved it.

        Raises:
            ValueError: the attention does not compute there.
        """
        kind = str(self.dtype).removeprefix("torch.")
        check_attention(self.preset.attention, str(self.device), kind)
        if self._place != (self.base.device, self.base.dtype):
            self.to()

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm, as diffusers has it: disable=True switches the bar off."""
        self._bar = options

    @property
    def interrupt(self) -> bool:
        """Whether a callback has ended the denoising of this call."""
        return self._interrupt

    def _load_encoder(self) -> IdentityEncoder:
        device = "cpu" if self.base.offloads else str(self.base.device)
        return load_identity_encoder(self.preset.encoders, device)

    def _generator(self, method: str) -> Generator:
        if not isinstance(method, str):
            raise ValueError(f"method is {method!r}, allowed: one of {', '.join(sorted(METHODS))}")
        if method not in self._generators:
            made = load_generators([method], self.preset, base=self.base)[method]
            check_trained(made, method, self.preset)
            self._generators[method] = made
        return self._generators[method]
