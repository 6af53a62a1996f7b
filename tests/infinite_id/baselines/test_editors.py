"""Editors of diffusers as baselines, on tiny random components saved in diffusers' own layout."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infinite_id.baselines.editors import EditorGenerator
from infinite_id.config import Preset, preset
from infinite_id.methods import METHODS, load_generator
from infinite_id.types import CancelledError, Identity, IdentityMix
from tests.infinite_id.tiny import tiny_request

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
)


def _tokenizer() -> Any:
    """Qwen2's, with letters for words."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {letter: number for number, letter in enumerate(bytes_to_unicode().values())}
    found = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    found.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]}
    )
    found.pad_token = "<|endoftext|>"
    found.chat_template = CHAT
    return found


@pytest.fixture(scope="module")
def flux2_klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` writes it; three text layers are read, as in the real one."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=28,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4), layers_per_block=1, latent_channels=4, norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=32,
    )  # fmt: skip
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=24, timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae,
        text_encoder=Qwen3ForCausalLM(text), tokenizer=tokenizer, transformer=transformer,
        is_distilled=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("flux2")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def family(flux2_klein: Path) -> Preset:
    return replace(preset("pocket"), weights=(("flux2_klein", str(flux2_klein)),))


@pytest.fixture
def generator(family: Preset) -> EditorGenerator:
    found = load_generator("flux2_klein", family)
    assert isinstance(found, EditorGenerator)
    found.config = replace(found.config, reference_size=64)  # the smallest that it takes
    return found


def _person(seed: int) -> Identity:
    rng = np.random.default_rng(seed)
    crops = tuple(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8) for _ in range(2))
    return Identity("ada", crops, None)  # type: ignore[arg-type]


def _request(**values: Any) -> Any:
    given = {"identity_id": "ada", "method": "flux2_klein", "height": 32, "width": 32}
    return tiny_request(**{**given, "num_inference_steps": 2, **values})


def test_pictures_come_one_by_one_and_depend_on_seed_prompt_and_person(
    generator: EditorGenerator,
) -> None:
    people = {"ada": _person(0)}
    requests = [_request(seed=1), _request(seed=2), _request(seed=1, prompt="a man in the snow")]
    steps: list[tuple[int, int]] = []
    made = generator.generate(requests, people, on_step=lambda *a: steps.append(a))
    pictures = [one.image for one in made]
    assert all(one.shape == (32, 32, 3) and one.dtype == np.uint8 for one in pictures)
    assert steps == [(1, 2), (2, 2)] * 3
    again = generator.generate(requests[:1], people)[0].image
    assert np.array_equal(again, pictures[0])
    other = generator.generate(requests[:1], {"ada": _person(5)})[0].image
    for one in (pictures[1], pictures[2], other):
        assert not np.array_equal(one, pictures[0])


def test_a_size_that_the_editor_rounds_comes_back_as_asked(generator: EditorGenerator) -> None:
    (made,) = generator.generate([_request(height=30, width=44)], {"ada": _person(0)})
    assert made.image.shape == (30, 44, 3)


def test_it_stops_between_two_steps(generator: EditorGenerator) -> None:
    with pytest.raises(CancelledError, match="after step 1 of 2"):
        generator.generate([_request()], {"ada": _person(0)}, should_stop=lambda: True)


def test_what_it_cannot_do_is_refused(generator: EditorGenerator) -> None:
    mix = IdentityMix((("ada", 0.5), ("bob", 0.5)))
    with pytest.raises(ValueError, match="asked for a mix, allowed: one person a picture"):
        generator.generate([_request(mix=mix)], {"ada": _person(0)})
    with pytest.raises(ValueError, match="identity 'ada' is missing"):
        generator.generate([_request()], {})


@pytest.mark.parametrize("name", ["flux2_klein", "qwen_image_edit"])
def test_without_weights_the_folder_is_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match=f"has no weights, allowed: weights with {name}: a folder"):
        load_generator(name, replace(preset("pocket"), allow_untrained=True))


def test_a_folder_of_another_pipeline_is_refused(flux2_klein: Path, tmp_path: Path) -> None:
    wrong = replace(preset("pocket"), weights=(("qwen_image_edit", str(flux2_klein)),))
    with pytest.raises(ValueError, match="pipeline Flux2KleinPipeline, allowed: QwenImageEditPlus"):
        load_generator("qwen_image_edit", wrong)
    empty = replace(preset("pocket"), weights=(("flux2_klein", str(tmp_path)),))
    with pytest.raises(ValueError, match=r"allowed: a folder with model_index\.json"):
        load_generator("flux2_klein", empty)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinPipeline"}))
    with pytest.raises(ValueError, match="do not load as Flux2KleinPipeline"):
        load_generator("flux2_klein", empty)


@pytest.mark.slow
def test_qwen_image_edit_draws_in_a_process_with_torchvision(
    tmp_path: Path, need: Callable[[str, bool, str], None]
) -> None:
    extras = os.environ.get("INFINITE_ID_OPEN_CLIP_FOLDER") or Path(sys.prefix) / "extras/open_clip"
    need("open_clip", (Path(extras) / "torchvision").is_dir(), "`make test` installs torchvision")
    root = Path(__file__).parents[3]
    process = subprocess.run(
        [sys.executable, "-m", "tests.infinite_id.baselines.qwen_image_edit", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{extras}", "HF_HUB_OFFLINE": "1"},
        cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    found = json.loads(process.stdout.splitlines()[-1])
    # Equal seeds give equal pictures; seed, person, prompt and guidance each change them.
    assert found == {"shape": [32, 32, 3], "same": ["again"], "steps": [[1, 2], [2, 2]]}
    # Here torchvision is missing: a sentence says so.
    family = replace(preset("pocket"), weights=(("qwen_image_edit", str(tmp_path)),))
    with pytest.raises(ValueError, match=r"do not load as QwenImageEditPlusPipeline: .*orchvision"):
        load_generator("qwen_image_edit", family)


def test_the_entries_name_pipelines_of_the_installed_diffusers() -> None:
    import diffusers

    for name in ("flux2_klein", "qwen_image_edit"):
        spec = METHODS[name]
        assert spec.computes
        assert not spec.needs_base
        passed = {"image", "prompt", "height", "width", "num_inference_steps", "generator"}
        passed |= {"callback_on_step_end", spec.config.guidance}
        passed |= {"negative_prompt"} if spec.config.takes_negative else set()
        for kind in spec.config.pipelines:
            taken = inspect.signature(getattr(diffusers, kind).__call__).parameters
            assert passed <= set(taken), kind
