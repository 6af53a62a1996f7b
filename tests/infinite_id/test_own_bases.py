"""Bases of one's own in the layouts that they have on disk: a folder with a variant, the hub's
cache with revisions, a checkpoint in one file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from infinite_id import InfiniteIDPipeline
from infinite_id.config import SamplerConfig
from tests.infinite_id.single_file import two_widths, write_checkpoint
from tests.infinite_id.test_python_interface import ADA
from tests.infinite_id.tiny import write_pocket_adapter

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One model in every layout, and the pictures that it makes."""
    place = tmp_path_factory.mktemp("own")
    adapter = write_pocket_adapter(place / "adapter.safetensors")
    pipe = two_widths()
    pipe.save_pretrained(place / "folder")
    pipe.save_pretrained(place / "half", variant="fp16")
    for path in (place / "half").glob("*/*.fp16.safetensors"):
        save_file({k: v.half() for k, v in load_file(path).items()}, path, {"format": "pt"})
    file = write_checkpoint(place / "own.safetensors", pipe)
    sampler = SamplerConfig(scheduler="ddim")
    made = InfiniteIDPipeline.from_pipe(pipe, adapter=adapter, encoders="pocket", sampler=sampler)
    ada = made.identity(ADA)
    known = {"place": place, "file": file, "adapter": adapter, "ada": ada}
    return {**known, "pictures": pictures(made, ada)}


def pictures(pipe: InfiniteIDPipeline, ada: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe("a {subject}", ada, seed=5, output_type="np", **SIZE).images


def loaded(own: dict[str, Any], name: str | Path, **values: Any) -> InfiniteIDPipeline:
    fixed: dict[str, Any] = {"adapter": own["adapter"], "encoders": "pocket"}
    return InfiniteIDPipeline.from_pretrained(name, **fixed, **values)


def test_a_folder_of_half_precision_by_its_variant(own: dict[str, Any]) -> None:
    half = own["place"] / "half"
    assert (half / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    assert (half / "text_encoder_2/model.fp16.safetensors").is_file()
    made = loaded(own, half, variant="fp16")
    assert made.dtype == torch.float32
    np.testing.assert_allclose(pictures(made, own["ada"]), own["pictures"], atol=0.02)
    with pytest.raises(ValueError, match=r"has no variant 'bf16', allowed: fp16"):
        loaded(own, half, variant="bf16")


def test_a_revision_of_the_hubs_cache(
    own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's client leaves it: content once in blobs, a folder of links for each revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--own--tiny"
    (cached / "blobs").mkdir(parents=True)
    revisions = ["a" * 40, "b" * 40]
    for revision in revisions:
        for path in (own["place"] / "folder").rglob("*"):
            link = cached / "snapshots" / revision / path.relative_to(own["place"] / "folder")
            if path.is_file():
                blob = cached / "blobs" / f"{revision[0]}-{path.parent.name}-{path.name}"
                blob.write_bytes(path.read_bytes())
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
    changed = cached / "blobs" / "b-unet-diffusion_pytorch_model.safetensors"
    save_file({k: v * 0.9 for k, v in load_file(changed).items()}, changed)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revisions[1])
    made = {name: loaded(own, "own/tiny", revision=name) for name in (revisions[0], "main")}
    np.testing.assert_allclose(
        pictures(made[revisions[0]], own["ada"]), own["pictures"], atol=2 / 255
    )
    assert np.abs(pictures(made["main"], own["ada"]) - own["pictures"]).max() > 2 / 255
    assert made["main"].base.revision != made[revisions[0]].base.revision
    with pytest.raises(ValueError, match=r"model own/tiny \(revision v9\) is no folder, is not in"):
        loaded(own, "own/tiny", revision="v9")


def test_a_checkpoint_in_one_file(own: dict[str, Any]) -> None:
    made = loaded(own, own["file"], config=own["place"] / "folder")
    np.testing.assert_allclose(pictures(made, own["ada"]), own["pictures"], atol=2 / 255)
    assert re.fullmatch(r"sdxl-file-[0-9a-f]{12}", made.base.revision)


def test_from_pipe_over_a_checkpoint_that_diffusers_loaded(own: dict[str, Any]) -> None:
    given = StableDiffusionXLPipeline.from_single_file(
        str(own["file"]), config=str(own["place"] / "folder")
    )
    given.set_progress_bar_config(disable=True)

    def plain() -> Any:
        generator = torch.Generator().manual_seed(5)
        return given("a man", generator=generator, output_type="np", **SIZE).images

    before = plain()
    made = InfiniteIDPipeline.from_pipe(given, adapter=own["adapter"], encoders="pocket")
    np.testing.assert_allclose(pictures(made, own["ada"]), own["pictures"], atol=2 / 255)
    np.testing.assert_array_equal(plain(), before)


def without(own: dict[str, Any], path: Path, part: str) -> Path:
    save_file({k: v for k, v in load_file(own["file"]).items() if part not in k}, path)
    return path


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (lambda own, p: p / "no.safetensors", {}, "no.safetensors cannot be read: No such file"),
        (lambda own, p: p / "own.ckpt", {}, "own.ckpt', allowed: a .safetensors file, no pickle"),
        (
            lambda own, p: without(own, p / "refiner.safetensors", "embedders.1"),
            {},
            "refiner.safetensors' has no conditioner.embedders.1.model.positional_embedding, allow",
        ),
        (
            lambda own, p: own["adapter"],
            {},
            "has no model.diffusion_model.input_blocks.0.0.weight, allowed: a whole SDXL",
        ),
        (
            lambda own, p: own["file"],
            {"config": "/no/folder"},
            "cannot be loaded with the setting",
        ),
        (
            lambda own, p: own["file"],
            {"variant": "fp16"},
            "variant is 'fp16', allowed with a ch",
        ),
        (
            lambda own, p: own["file"],
            {"revision": "main"},
            "revision is 'main', allowed with a c",
        ),
        (
            lambda own, p: "pocket",
            {"variant": "fp16"},
            "variant is 'fp16', allowed with pocket",
        ),
        (lambda own, p: own["place"], {"config": "x"}, "config is 'x', allowed with a folder or a"),
    ],
)
def test_what_a_base_is_refused_for(
    own: dict[str, Any], tmp_path: Path, make: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        loaded(own, make(own, tmp_path), **values)
    assert "\n" not in str(caught.value)
