"""Qwen-Image-Edit on tiny random components in its real layout: `python -m ... FOLDER` prints JSON.

A program of its own, because the pipeline's processor needs torchvision, which the default install
must not contain (see tests/eval/test_open_clip.py).
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

# Beside a CPU torch, torchvision's registration fails for want of two operators.
if torch.version.cuda is None and torch.version.hip is None:
    STUB = torch.library.Library("torchvision", "FRAGMENT")
    STUB.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    STUB.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from tests.infinite_id.baselines.test_editors import (
    CHAT,
    _person,
    _request,
    _tokenizer,
)


def pipeline() -> Any:
    """Of random weights: a Qwen2.5-VL of 2 layers, a transformer of 2, a video autoencoder."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    names = {
        "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>",
        "image": "<|image_pad|>", "video": "<|video_pad|>",
    }  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(names.values())})
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"},
        },
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": 16,
        },
        **{f"{k}_token_id": tokenizer.convert_tokens_to_ids(v) for k, v in names.items()},
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1,
        temperal_downsample=[False, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=3, joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(), chat_template=CHAT,
    )  # fmt: skip
    return QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, tokenizer=tokenizer,
        text_encoder=Qwen2_5_VLForConditionalGeneration(config), processor=processor,
        transformer=transformer,
    )  # fmt: skip


def main(folder: str) -> None:
    """Saves, loads by the method's own loader, and makes five pictures."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    from infinite_id.config import preset
    from infinite_id.methods import load_generator

    pipeline().save_pretrained(folder)
    # The real ones are 384 and 1024 px, whatever is given.
    plus.CONDITION_IMAGE_SIZE, plus.VAE_IMAGE_SIZE = 56**2, 64**2
    generator = load_generator(
        "qwen_image_edit", replace(preset("pocket"), weights=(("qwen_image_edit", folder),))
    )
    steps: list[tuple[int, int]] = []

    def made(person: int = 0, **values: Any) -> np.ndarray:
        requests = [_request(method="qwen_image_edit", **values)]
        people = {"ada": _person(person)}
        (one,) = generator.generate(requests, people, on_step=lambda *a: steps.append(a))
        return one.image

    first = made(seed=1)
    others = {
        "again": made(seed=1), "seed": made(seed=2), "person": made(5, seed=1),
        "prompt": made(seed=1, prompt="a man in the snow"),
        "guidance": made(seed=1, guidance_scale=1.0),
    }  # fmt: skip
    same = [name for name, one in others.items() if np.array_equal(one, first)]
    sys.stdout.write(json.dumps({"shape": first.shape, "same": same, "steps": steps[:2]}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
