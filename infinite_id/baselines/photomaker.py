"""PhotoMaker (arXiv 2312.04461): an identity as word embeddings.

Each photo becomes one token (version 2: two). The class word ("man") stands once for each of them
in the text; at those places the text embedding e and the identity token d are fused,

    e' = LayerNorm(m + MLP_2(m)),   m = e + MLP_1([e, d]),

and the first denoising steps see the plain text. A LoRA on the UNet's attention goes with it.
Written after the paper and the format of the published files; see `load_photomaker`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from infinite_id.base import BaseModel, TextEmbeddings
from infinite_id.baselines.config import PhotoMakerConfig
from infinite_id.baselines.photomaker_weights import (
    PhotoMakerEncoder,
    load_photomaker,
    untrained_encoder,
)
from infinite_id.baselines.rows import RowBatch, RowGenerator, encode_ids, find_identity, twin
from infinite_id.config import Preset, SamplerConfig
from infinite_id.methods import MethodSpec, trained_weights
from infinite_id.types import GenerationRequest, Generator, Identity
from infinite_id.weights.base_lora import load_lora
from infinite_id.weights.places import local_file

__all__ = ["PhotoMakerGenerator", "class_token_ids", "photomaker"]

_ADAPTER = "photomaker"


class PhotoMakerGenerator(RowGenerator):
    """One identity a row; the people of a stacked mix follow one another as more photos would.

    Args:
        base: the text-to-image model; its UNet is left alone, the LoRA sits in a twin.
        encoder: photos -> identity tokens, and the fusion.
        lora: weights as diffusers reads them, keys beginning with "unet."; may be empty.
        config: trigger word and merging step.
        sampler: scheduler.
        revision: names base and weights.
    """

    def __init__(
        self,
        base: BaseModel,
        encoder: PhotoMakerEncoder,
        lora: Mapping[str, Tensor],
        config: PhotoMakerConfig,
        sampler: SamplerConfig,
        revision: str,
    ) -> None:
        width = base.unet.config.cross_attention_dim
        if encoder.width != width:
            raise ValueError(
                f"PhotoMaker weights are for texts {encoder.width} wide, allowed: {width}, the "
                "base model's"
            )
        strange = [key for key in lora if not key.startswith("unet.")]
        if strange:
            raise ValueError(f"LoRA key is {strange[0]!r}, allowed: keys that begin with 'unet.'")
        super().__init__(twin(base), sampler, revision)
        if lora:
            load_lora(self.base.pipeline, dict(lora), adapter_name=_ADAPTER)
        self.encoder = encoder.to(base.device, base.dtype).eval().requires_grad_(False)
        self.config = config

    def _rows(
        self, requests: Sequence[GenerationRequest], identities: Mapping[str, Identity]
    ) -> RowBatch:
        plain, fused = [], []
        for request in requests:
            tokens, word = self._identity(request, identities)
            text = re.sub(rf"\s*\b{re.escape(self.config.trigger)}\b", "", request.prompt)
            plain.append(text)
            fused.append(self._fused(request.prompt, word, tokens))
        return RowBatch(
            text=TextEmbeddings(
                torch.cat([row.hidden for row in fused]), torch.cat([row.pooled for row in fused])
            ),
            negative=self.base.encode_negative([request.negative_prompt for request in requests]),
            early=self.base.encode(plain),
            merge_from=self.config.merge_from,
            seeds=[request.seed for request in requests],
            guidance_scales=self.guidance_scales(requests),
            height=requests[0].height,
            width=requests[0].width,
        )

    def _identity(
        self, request: GenerationRequest, identities: Mapping[str, Identity]
    ) -> tuple[Tensor, str]:
        """(T, D) identity tokens and the class word."""
        if request.mix is None:
            identity = find_identity(identities, request.identity_id)
            return self.encoder.identity_tokens(
                identity, self.config.face_norm
            ), identity.class_word
        people = [find_identity(identities, key) for key, _ in request.mix.parts]
        tokens = [self.encoder.identity_tokens(one, self.config.face_norm) for one in people]
        words = {one.class_word for one in people}
        word = words.pop() if len(words) == 1 else "person"
        if request.mix.mode == "stack":
            return torch.cat(tokens), word
        if len({len(one) for one in tokens}) > 1:
            counts = [len(one.images) for one in people]
            raise ValueError(f"people of a mix have {counts} photos, allowed: equally many each")
        weights = [weight for _, weight in request.mix.parts]
        parts = [one * weight for one, weight in zip(tokens, weights, strict=True)]
        return torch.stack(parts).sum(dim=0), word

    def _fused(self, prompt: str, word: str, tokens: Tensor) -> TextEmbeddings:
        """One row: the text with the class word repeated, then fused with the identity."""
        pipeline = self.base.pipeline
        rows = [
            class_token_ids(tokenizer, prompt, word, self.config.trigger, len(tokens))
            for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)
        ]
        # Both tokenizers of a base have one vocabulary, and so one place of the class word.
        mask = rows[0][1]
        text = encode_ids(self.base, [ids[None] for ids, _ in rows])
        hidden = text.hidden.clone()
        hidden[0, mask] = self.encoder.fuse(hidden[0, mask], tokens)
        return TextEmbeddings(hidden, text.pooled)


def class_token_ids(
    tokenizer: object, prompt: str, class_word: str, trigger: str, count: int
) -> tuple[Tensor, Tensor]:
    """Token ids with the class word's last token `count` times, and where those stand.

    The class word is the word before the trigger; where a prompt has no trigger, the first
    `class_word` in it. The trigger itself is left out.

    Args:
        tokenizer: a CLIP tokenizer.
        prompt: final text.
        class_word: of the identity.
        trigger: e.g. "img".
        count: identity tokens, >= 1.

    Returns:
        int64 (L,) padded to the tokenizer's length, bool (L,).

    Raises:
        ValueError: neither word is in the prompt, the trigger stands twice, or the text is too
            long.
    """
    marks = list(re.finditer(rf"\b{re.escape(trigger)}\b", prompt))
    if len(marks) > 1:
        raise ValueError(f"prompt has the trigger {trigger!r} {len(marks)} times, allowed: once")
    if marks:
        before, after = prompt[: marks[0].start()], prompt[marks[0].end() :]
    else:
        found = re.search(rf"\b{re.escape(class_word)}\b", prompt, re.IGNORECASE)
        if found is None:
            raise ValueError(
                f"prompt has neither the trigger {trigger!r} nor the class word {class_word!r}, "
                "allowed: one of them"
            )
        before, after = prompt[: found.end()], prompt[found.end() :]
    call: Any = tokenizer
    head = call(before, add_special_tokens=False).input_ids
    tail = call(after, add_special_tokens=False).input_ids if after.strip() else []
    if not head:
        raise ValueError(f"prompt has no word before the trigger {trigger!r}, allowed: one")
    ids = [call.bos_token_id, *head, *[head[-1]] * (count - 1), *tail, call.eos_token_id]
    length = call.model_max_length
    if len(ids) > length:
        raise ValueError(
            f"prompt has {len(ids)} tokens with {count} for the identity, allowed: {length}"
        )
    first = len(head)
    ids += [call.pad_token_id] * (length - len(ids))
    mask = torch.zeros(length, dtype=torch.bool)
    mask[first : first + count] = True
    return torch.tensor(ids), mask


def photomaker(spec: MethodSpec, preset: Preset, base: BaseModel | None) -> Generator:
    """A factory of METHODS; weights from `preset.weights["photomaker"]` or the pocket's own."""
    if base is None:
        raise ValueError(f"method {spec.title!r} needs a base model, allowed: a loaded one")
    address = trained_weights(spec, preset)
    if address is not None:
        encoder, lora, revision = load_photomaker(local_file(address))
    else:
        encoder, lora = untrained_encoder(preset.encoders.clip_width, base), {}
        revision = "untrained-photomaker"
    return PhotoMakerGenerator(
        base, encoder, lora, spec.config, preset.sampler, f"{base.revision}+{revision}"
    )
