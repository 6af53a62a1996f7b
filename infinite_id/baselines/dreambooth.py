"""DreamBooth (arXiv 2208.12242) as a LoRA: one small fine-tuning a person.

`L = E || y - f(z_t, t, "a photo of sks man") ||^2 + w E || y' - f(z'_t, t, "a photo of man") ||^2`,
z of the person's photos, z' of class pictures that the base made itself: prior preservation. y is
the noise or the velocity, as the base predicts. Only the LoRA on the UNet's attention is trained.

A batch may hold a different person in every row: peft picks the LoRA row by row.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.baselines.config import DreamBoothConfig
from infinite_id.baselines.rows import RowBatch, RowGenerator, denoise_rows, find_identity, twin
from infinite_id.config import Preset, SamplerConfig
from infinite_id.methods import MethodSpec, trained_weights
from infinite_id.training.adapter import diffusion_loss, noisy_and_target
from infinite_id.types import GenerationRequest, Generator, Identity

__all__ = [
    "DreamBoothGenerator",
    "class_latents",
    "dreambooth",
    "fit_lora",
    "is_fitted",
    "lora_path",
    "personal_prompt",
    "save_lora",
]

_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
_FORMAT = "dreambooth-lora"


def personal_prompt(prompt: str, class_word: str, rare_word: str) -> str:
    """The prompt with the rare word before the first class word, or both before the prompt."""
    found = re.search(rf"\b{re.escape(class_word)}\b", prompt, re.IGNORECASE)
    if found is None:
        return f"{rare_word} {class_word}, {prompt}"
    return f"{prompt[: found.start()]}{rare_word} {prompt[found.start() :]}"


def class_latents(
    base: BaseModel,
    class_word: str,
    config: DreamBoothConfig,
    sampler: SamplerConfig,
    height: int,
    width: int,
) -> Tensor:
    """Latents (class_pictures, C, h, w) of pictures that the base makes of the class."""
    count = config.class_pictures
    text, negative = base.encode([_class_text(class_word)]), base.encode_negative([""])
    parts = []
    for start in range(0, count, 8):
        rows = min(8, count - start)
        batch = RowBatch(
            text=_repeated(text, rows),
            negative=_repeated(negative, rows),
            seeds=[config.seed + 1_000_003 * (start + row + 1) for row in range(rows)],
            guidance_scales=[sampler.guidance_scale] * rows,
            height=height,
            width=width,
        )
        parts.append(denoise_rows(base, batch, sampler))
    return torch.cat(parts).clone()


def _class_text(class_word: str) -> str:
    return f"a photo of {class_word}"


def _repeated(text: TextEmbeddings, rows: int) -> TextEmbeddings:
    return TextEmbeddings(text.hidden.expand(rows, -1, -1), text.pooled.expand(rows, -1))


def fit_lora(
    base: BaseModel,
    photos: Tensor,
    prior: Tensor,
    class_word: str,
    config: DreamBoothConfig,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Tensor]:
    """Fits one person.

    Args:
        base: left as it is.
        photos: latents (P, C, h, w) of the person, of `BaseModel.encode_pictures`.
        prior: latents (P, C, h, w) of the class, `class_latents`; unread where the weight is 0.
        class_word: of the person.
        config: of the fit; equal inputs and seed give equal weights on one machine.
        on_step: called as on_step(step, loss).

    Returns:
        The LoRA's weights on the CPU, float32, by peft's names.
    """
    own = twin(base)
    pixels = own.vae_factor
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        own.unet.add_adapter(_lora_config(config))
    cast_training_params(own.unet)
    trained = [p for p in own.unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
    scheduler = own.pipeline.scheduler.config
    alphas = own.scheduler("ddim", 1).alphas_cumprod.to(own.device)
    with torch.no_grad():
        words = [f"a photo of {config.rare_word} {class_word}", _class_text(class_word)]
        text = own.encode(words)
    generator = torch.Generator("cpu").manual_seed(config.seed)
    time_ids = own.time_ids(photos.shape[2] * pixels, photos.shape[3] * pixels)
    sources = [(photos, 0, 1.0)]
    if config.prior_weight > 0:
        sources.append((prior, 1, config.prior_weight))
    size = config.batch_size
    rows = torch.tensor([row for _, row, _ in sources for _ in range(size)])
    weights = torch.tensor([w for _, _, w in sources for _ in range(size)], device=own.device)
    shape = (len(rows), *photos.shape[1:])
    own.unet.train()
    for step in range(config.steps):
        chosen = [
            latents[torch.randint(len(latents), (size,), generator=generator).to(latents.device)]
            for latents, _, _ in sources
        ]
        noise = torch.randn(shape, generator=generator).to(own.device)
        timesteps = torch.randint(len(alphas), (len(rows),), generator=generator).to(own.device)
        noisy, target = noisy_and_target(
            torch.cat(chosen).to(own.device), noise, timesteps, alphas, scheduler.prediction_type
        )
        with torch.autocast(own.device.type, own.dtype, enabled=own.dtype != torch.float32):
            predicted = own.unet(
                noisy.to(own.dtype),
                timesteps,
                encoder_hidden_states=text.hidden[rows],
                added_cond_kwargs={
                    "text_embeds": text.pooled[rows],
                    "time_ids": time_ids.expand(len(rows), -1),
                },
                return_dict=False,
            )[0]
        # Each source's mean, weighted: the mean over all rows would halve the person's part.
        loss = diffusion_loss(predicted, target, weights) * len(sources)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, float(loss.detach()))
    state = get_peft_model_state_dict(own.unet)
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}


def _lora_config(config: DreamBoothConfig) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.rank,
        target_modules=_TARGETS,
        init_lora_weights="gaussian",
    )


def lora_path(folder: str | Path, identity_id: str, config: DreamBoothConfig) -> Path:
    """File of one person's LoRA; fits with and without prior preservation lie side by side."""
    kind = "prior" if config.prior_weight > 0 else "no_prior"
    return Path(folder) / kind / f"{quote(identity_id, safe='')}.safetensors"


def save_lora(
    path: Path,
    weights: Mapping[str, Tensor],
    config: DreamBoothConfig,
    *,
    base: str,
    class_word: str,
    photos: str,
) -> None:
    """Writes one person's LoRA, whole or not at all; what it was made from is in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    header = {"format": _FORMAT, **_header(config, base, class_word, photos)}
    save_file(dict(weights), temporary, metadata=header)
    temporary.replace(path)


def is_fitted(
    path: Path, config: DreamBoothConfig, *, base: str, class_word: str, photos: str
) -> bool:
    """Whether the file is there and was made from just these settings, base and photos."""
    if not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError):
        return False
    wanted = _header(config, base, class_word, photos)
    return all(header.get(name) == value for name, value in wanted.items())


def _header(config: DreamBoothConfig, base: str, class_word: str, photos: str) -> dict[str, str]:
    settings = json.dumps(asdict(config), sort_keys=True)
    return {"config": settings, "base": base, "class_word": class_word, "photos": photos}


class DreamBoothGenerator(RowGenerator):
    """One LoRA a row, loaded by identity; mixes are refused.

    Args:
        base: the text-to-image model; its UNet is left alone.
        folder: of `lora_path`.
        config: names the rare word and which fits are read.
        sampler: scheduler.
        revision: names the base.
        most: LoRAs kept loaded; a batch with more people loads as many as it has.
    """

    def __init__(
        self,
        base: BaseModel,
        folder: str | Path,
        config: DreamBoothConfig,
        sampler: SamplerConfig,
        revision: str,
        *,
        most: int = 32,
    ) -> None:
        super().__init__(twin(base), sampler, revision)
        self.folder, self.config, self.most = Path(folder), config, most
        self._loaded: OrderedDict[str, str] = OrderedDict()
        self._count = 0

    def _rows(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> RowBatch:
        texts = []
        for request in requests:
            word = find_identity(identities, request.identity_id).class_word
            texts.append(personal_prompt(request.prompt, word, self.config.rare_word))
        return RowBatch(
            text=self.base.encode(texts),
            negative=self.base.encode_negative([request.negative_prompt for request in requests]),
            seeds=[request.seed for request in requests],
            guidance_scales=self.guidance_scales(requests),
            height=requests[0].height,
            width=requests[0].width,
        )

    @contextmanager
    def _personalised(self, requests: Sequence[GenerationRequest]) -> Iterator[None]:
        for request in requests:
            if request.mix is not None:
                raise ValueError(
                    f"identity {request.identity_id!r} is a mix, allowed with DreamBooth: a person"
                )
        people = [request.identity_id for request in requests]
        names = [self._adapter(person, set(people)) for person in people]

        def choose(module: Any, inputs: Any, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            every = names * (len(inputs[0]) // len(names))
            return inputs, {**values, "adapter_names": every}

        layers = [module for module in self.base.unet.modules() if isinstance(module, LoraLayer)]
        hooks = [
            layer.register_forward_pre_hook(choose, with_kwargs=True)  # type: ignore[attr-defined]
            for layer in layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _adapter(self, person: str, needed: set[str]) -> str:
        """peft's name of a person's LoRA, loaded; the longest unused one makes room."""
        if person in self._loaded:
            self._loaded.move_to_end(person)
            return self._loaded[person]
        weights = self._read(person)
        idle = [name for name in self._loaded if name not in needed]
        if len(self._loaded) >= self.most and idle:
            self.base.unet.delete_adapters(self._loaded.pop(idle[0]))
        self._count += 1
        name = f"person_{self._count}"
        with warnings.catch_warnings():
            # Several LoRAs in one model are what is wanted here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            self.base.unet.add_adapter(_lora_config(self.config), adapter_name=name)
        set_peft_model_state_dict(self.base.unet, weights, adapter_name=name)
        self.base.unet.to(self.base.device, self.base.dtype)
        self._loaded[person] = name
        return name

    def _read(self, person: str) -> dict[str, Tensor]:
        path = lora_path(self.folder, person, self.config)
        if not path.is_file():
            raise ValueError(
                f"identity {person!r} has no DreamBooth LoRA at {path}, allowed: people that "
                "jobs/dreambooth.py was run for"
            )
        try:
            with safe_open(str(path), framework="pt") as file:
                header = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"DreamBooth LoRA {path} cannot be read: {error}") from error
        if header.get("format") != _FORMAT or header.get("base") != self.base.revision:
            raise ValueError(
                f"DreamBooth LoRA {path} is for the base {header.get('base')}, allowed: "
                f"{self.base.revision}"
            )
        return weights


def dreambooth(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """A factory of METHODS; LoRAs from the folder `preset.weights["dreambooth"]`."""
    if base is None:
        raise ValueError(f"method {spec.title!r} needs a base model, allowed: a loaded one")
    folder = trained_weights(spec, preset)
    if folder is None:
        raise ValueError(
            f"method {spec.title!r} has no LoRAs, allowed: weights with dreambooth: the folder "
            "that jobs/dreambooth.py wrote"
        )
    return DreamBoothGenerator(base, folder, spec.config, preset.sampler, base.revision)
