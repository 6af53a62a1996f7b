"""Every stage in one step on random data, then export: the chain of the pocket model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from infinite_id import factories
from infinite_id.faces.alignment import ARCFACE_TEMPLATE
from infinite_id.pocket import model as pocket
from infinite_id.pocket import weights as pocket_weights
from infinite_id.training.autoencoder import fold_latent_scale, latent_scale, latents_of
from infinite_id.training.captions import caption, draw_description
from infinite_id.training.context import Context
from infinite_id.training.dataset import Pictures
from infinite_id.training.export import export, restore
from infinite_id.training.face_network_file import load_face_network
from infinite_id.training.pack import Faces, read_pack, write_pack
from infinite_id.training.pocket import main, precision_of
from infinite_id.training.stages import STAGES, train_stage
from tests.full_disk import files_of_at_most

ROOT = Path(__file__).resolve().parents[3]


def pictures(count: int, people: int, size: int = 64) -> Pictures:
    rng = np.random.default_rng(1)
    colors = rng.integers(0, 255, (count, 1, 1, 3), dtype=np.uint8)
    return Pictures(
        images=np.tile(colors, (1, size, size, 1)),
        person=rng.integers(people, size=count),
        portrait=rng.integers(3, size=count),
        captions=np.array([caption(draw_description(rng), rng) for _ in range(count)]),
        style=np.array(["photo"] * count),
        other=np.full(count, -1),
        landmarks=np.tile(
            (size / 64 * (ARCFACE_TEMPLATE * 0.3 + [15, 12])).astype(np.float32), (count, 1, 1)
        ),
    )


def faces(people: int) -> Faces:
    rng = np.random.default_rng(2)
    face = rng.standard_normal((people, 3, 128)).astype(np.float32)
    aligned = np.repeat(rng.integers(0, 255, (people, 3, 1, 1, 3), dtype=np.uint8), 112, 2)
    return Faces(aligned.repeat(112, 3), face / np.linalg.norm(face, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder after one step of every stage."""
    return trained(tmp_path_factory.mktemp("state"), 64)


@pytest.fixture(scope="module")
def large_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the edition with pictures of 96 px."""
    return trained(tmp_path_factory.mktemp("state96"), 96)


def trained(folder: Path, size: int) -> Path:
    context = Context(
        state=folder,
        device=torch.device("cpu"),
        precision="float32",
        batch_scale=1,
        people=faces(20),
        pictures=pictures(24, 20, size),
        scorer_pictures=pictures(8, 20, size),
        report=lambda stage, progress: None,
        size=size,
    )
    for stage in STAGES:
        assert train_stage(context, stage, steps=1) == 1
    return folder


@pytest.mark.parametrize("size", sorted(pocket.EDITIONS))
def test_what_was_trained_is_what_loads(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    steps = export(
        request.getfixturevalue("state" if size == 64 else "large_state"), tmp_path, size
    )
    assert steps == dict.fromkeys(STAGES, 1)
    for module in (pocket, pocket_weights, factories):
        monkeypatch.setattr(module, "POCKET_DIR", tmp_path)
    (tmp_path / "tokenizer").symlink_to(Path(pocket.__file__).parent / "assets/pocket/tokenizer")
    pocket_weights.manifest.cache_clear()
    try:
        assert pocket.is_trained()
        assert pocket.revision().startswith("pocket-")
        pipeline = pocket.load_pipeline()
        picture = pipeline("a man", num_inference_steps=1, output_type="np").images
        assert picture.shape == (1, size, size, 3)
        assert pocket.shipped_size() == size
        assert pocket.build_unet().config.in_channels == pocket.EDITIONS[size].channels
        assert pipeline.vae.config.latents_std is None
        assert all(pocket.adapter_path(name) for name in pocket.ADAPTERS)
        from infinite_id.config import preset
        from infinite_id.methods import load_generators

        names = ["infinite_id", "infinite_id_text_trained", "ip_adapter", "photomaker"]
        made = load_generators(names, preset("pocket"))
        assert not any("untrained" in made[name].revision for name in names)
    finally:
        pocket_weights.manifest.cache_clear()


def test_training_goes_on_from_an_export(state: Path, tmp_path: Path):
    export(state, tmp_path / "assets")
    assert restore(tmp_path / "assets", tmp_path / "state") == dict.fromkeys(STAGES, 1)
    for stage in STAGES:
        if stage in ("vae", "decoder"):
            # The scale of the latents is in their weights now.
            continue
        name = f"{stage.replace(':', '-')}.safetensors"
        before, after = load_file(state / name), load_file(tmp_path / "state" / name)
        assert before.keys() == after.keys()
        heads = ("first_head", "face_head", "logit_scale")
        for key in before:
            if not any(head in key for head in heads):
                torch.testing.assert_close(after[key], before[key], rtol=1e-3, atol=1e-3)
    context = Context(
        tmp_path / "state", torch.device("cpu"), "float32", 1, faces(20), pictures(24, 20),
        pictures(8, 20), lambda stage, progress: None,
    )  # fmt: skip
    assert train_stage(context, "base", steps=2) == 2
    # Other pictures do not move the latents that the exported base was trained on.
    _, *used = latents_of(context, context.pictures.images[:3])
    for scale in (latent_scale(tmp_path / "state"), used):
        torch.testing.assert_close(tuple(scale), (torch.zeros(4), torch.ones(4)))
    # They are those of the state that was exported.
    images = context.pictures.images
    own, *_ = latents_of(context, images)
    before, *_ = latents_of(replace(context, state=state), images)
    torch.testing.assert_close(own, before, rtol=2e-2, atol=2e-2)


def test_a_folded_scale_gives_normal_latents_and_the_same_pictures():
    vae = pocket.build_vae(96)
    vae.quant_conv.bias.data.normal_()
    mean, deviation = torch.linspace(-1, 2, 8), torch.linspace(0.2, 3, 8)
    shape = (1, 8, 1, 1)
    with torch.no_grad():
        images = torch.rand(2, 3, 96, 96) * 2 - 1
        before = vae.encode(images).latent_dist
        fold_latent_scale(vae, mean, deviation)
        after = vae.encode(images).latent_dist
        own = (before.mean - mean.view(shape)) / deviation.view(shape)
        torch.testing.assert_close(after.mean, own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after.std, before.std / deviation.view(shape))
        folded = vae.decode(own).sample
        plain = pocket.build_vae(96).decode(before.mean).sample
    torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("wanted", "device", "tiles", "precision"),
    [
        ("auto", "cuda", False, "bfloat16"),
        ("auto", "cpu", True, "bfloat16"),
        ("auto", "cpu", False, "float32"),
        ("float32", "cuda", True, "float32"),
        ("bfloat16", "cpu", False, "bfloat16"),
    ],
)
def test_half_precision_is_taken_where_it_pays(
    wanted: str, device: str, tiles: bool, precision: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles})
    assert precision_of(wanted, torch.device(device)) == precision


def test_another_edition_begins_with_the_image_text_models_alone(state: Path, tmp_path: Path):
    export(state, tmp_path / "assets")
    written = restore(tmp_path / "assets", tmp_path / "state", 96)
    assert written == {"clip": 1, "scorer": 1}


def test_a_budget_of_pictures_ends_a_stage_with_its_rate_decayed(state: Path, tmp_path: Path):
    shutil.copytree(state, tmp_path / "state", ignore=shutil.ignore_patterns("*.pt"))
    arguments = [
        "--state", str(tmp_path / "state"), "--stage", "clip", "--minutes", "60",
        "--device", "cpu", "--budget", str(64 * 4), "--workers", "2",
    ]  # fmt: skip
    write_pack(tmp_path / "pack.npz", faces(20), pictures(24, 20), pictures(8, 20))
    command = [sys.executable, "-m", "infinite_id.training.pocket", *arguments]
    command += ["--data", str(tmp_path / "pack.npz")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    checkpoint = torch.load(tmp_path / "state/clip.pt", weights_only=True)
    # Two workers of 64 pictures each.
    assert checkpoint["step"] == 2
    # The stage begins after one step of its own: 1 % of a warm-up, and the last of the budget.
    rate = checkpoint["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-3 * 0.01 * 0.02)


@pytest.mark.parametrize(("option", "value", "least"), [("workers", "0", 1), ("budget", "-1", 0)])
def test_a_number_out_of_range_is_named(
    option: str, value: str, least: int, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert main([f"--{option}", value, "--state", str(tmp_path)]) == 2
    assert f"{option} is {value}, allowed: {least} or more" in capsys.readouterr().err


def test_other_pictures_have_other_latents(state: Path):
    context = Context(
        state, torch.device("cpu"), "float32", 1, faces(20), pictures(24, 20), pictures(8, 20),
        lambda stage, progress: None,
    )  # fmt: skip
    images = context.pictures.images
    own, *_ = latents_of(context, images)
    reversed_ones, *_ = latents_of(context, images[::-1])
    torch.testing.assert_close(reversed_ones, own.flip(0), rtol=1e-2, atol=1e-2)
    assert (reversed_ones - own).abs().max() > 0.1


def test_an_export_that_fails_leaves_the_former_one(state: Path, tmp_path: Path):
    export(state, tmp_path / "assets")
    before = {path: path.read_bytes() for path in (tmp_path / "assets").rglob("*.*")}
    arguments = ["--export", str(tmp_path / "assets"), "--state", str(state), "--minutes", "0"]
    with files_of_at_most(1_000_000):
        assert main(arguments) == 1
    assert {path: path.read_bytes() for path in (tmp_path / "assets").rglob("*.*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["assets"]


def test_a_program_that_is_told_to_stop_exports_nothing(state: Path, tmp_path: Path):
    write_pack(tmp_path / "pack.npz", faces(20), pictures(24, 20), pictures(8, 20))
    command = (
        "import os, signal, sys\n"
        "from infinite_id.training import pocket\n"
        "told = pocket._told_to_stop\n"
        "def at_once():\n"
        "    asked = told()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return asked\n"
        "pocket._told_to_stop = at_once\n"
        "sys.exit(pocket.main(sys.argv[1:]))\n"
    )
    arguments = [
        "--state", str(tmp_path / "state"), "--data", str(tmp_path / "pack.npz"),
        "--start-from", str(_exported(state, tmp_path)), "--export", str(tmp_path / "assets"),
        "--stage", "vae,clip", "--minutes", "60", "--device", "cpu",
    ]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert "told to stop" in ended.stderr
    assert "clip: " not in ended.stderr
    assert not (tmp_path / "assets").exists()


def _exported(state: Path, folder: Path) -> Path:
    export(state, folder / "exported")
    return folder / "exported"


def test_weights_of_another_model_are_named(state: Path, tmp_path: Path):
    shutil.copytree(state, tmp_path / "state")
    tensors = load_file(state / "vae.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    save_file(
        {**tensors, name: tensors[name][:, :, :1].contiguous()},
        tmp_path / "state/vae.safetensors",
        metadata={"step": "1"},
    )
    with pytest.raises(ValueError, match=f"stage vae .* do not fit: {name} is"):
        export(tmp_path / "state", tmp_path / "assets")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    assert main(["--device", device, "--state", str(tmp_path / "state")]) == 2
    assert f"device is '{device}', allowed: auto, cpu, cuda" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_folder_that_is_no_export_is_named(tmp_path: Path):
    arguments = ["--start-from", str(tmp_path), "--state", str(tmp_path), "--minutes", "0"]
    assert main(arguments) == 2


def test_a_later_stage_asks_for_the_earlier_one(tmp_path: Path):
    context = Context(
        tmp_path, torch.device("cpu"), "float32", 1, faces(20), pictures(8, 20), pictures(8, 20),
        lambda stage, progress: None,
    )  # fmt: skip
    with pytest.raises(FileNotFoundError, match="stage vae has no weights"):
        train_stage(context, "base", steps=1)


def test_an_unknown_stage_is_named(tmp_path: Path):
    assert main(["--stage", "unet", "--state", str(tmp_path)]) == 2


def test_a_pack_holds_what_training_reads(tmp_path: Path):
    given = (faces(4), pictures(6, 4), pictures(3, 4))
    assert write_pack(tmp_path / "pack.npz", *given) < 1_000_000
    people, train, scorer, network = read_pack(tmp_path / "pack.npz")
    assert network is None
    np.testing.assert_allclose(people.face, given[0].face, atol=1e-3)
    assert np.abs(people.aligned.astype(int) - given[0].aligned).mean() < 3
    assert np.abs(train.images.astype(int) - given[1].images).mean() < 3
    assert list(train.captions) == list(given[1].captions)
    assert np.array_equal(scorer.person, given[2].person)


def test_a_pack_of_another_size_is_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    write_pack(tmp_path / "pack.npz", faces(4), pictures(6, 4), pictures(3, 4))
    arguments = ["--data", str(tmp_path / "pack.npz"), "--size", "96", "--stage", "vae"]
    assert main([*arguments, "--state", str(tmp_path), "--device", "cpu"]) == 2
    assert "data pack has pictures of 64 px, allowed: 96" in capsys.readouterr().err


def test_a_pack_is_enough_where_opencv_and_onnx_are_missing(state: Path, tmp_path: Path):
    """The identity loss too: the pack carries the network and all landmarks."""
    data = (faces(20), pictures(24, 20), pictures(8, 20))
    write_pack(tmp_path / "pack.npz", *data, load_face_network())
    blocked = (
        "import sys\n"
        # imwatermark, which diffusers uses where it is installed, needs OpenCV.
        "for name in ('cv2', 'onnx', 'onnxruntime', 'imwatermark'):\n"
        "    sys.modules[name] = None\n"
        "from infinite_id.training.pocket import main\n"
        "for state in ('0', '10'):\n"
        "    ended = main([*sys.argv[1:], '--state', state, '--identity-loss', state])\n"
        "    assert ended == 0, state\n"
    )
    arguments = [
        "--data", str(tmp_path / "pack.npz"),
        "--stage", "adapter:infinite_id", "--device", "cpu", "--budget", str(3 * 32),
    ]  # fmt: skip
    for weight in ("0", "10"):
        shutil.copytree(state, tmp_path / weight, ignore=shutil.ignore_patterns("*.pt"))
    ended = subprocess.run(
        [sys.executable, "-c", blocked, *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    assert "no identity loss" not in ended.stderr
    logs = [(tmp_path / weight / "log.jsonl").read_text() for weight in ("0", "10")]
    losses = [json.loads(log.splitlines()[-1])["loss"] for log in logs]
    assert losses[1] > losses[0] + 0.1


def test_a_file_that_is_no_pack_is_named(tmp_path: Path):
    (tmp_path / "pack.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"pack\.npz cannot be read"):
        read_pack(tmp_path / "pack.npz")


@pytest.mark.parametrize("name", ["infinite_id", "photomaker"])
def test_adapters_may_be_trained_with_an_identity_loss(state: Path, tmp_path: Path, name: str):
    shutil.copytree(state, tmp_path / "state", ignore=shutil.ignore_patterns("*.pt"))
    losses = []
    for weight in (0.0, 10.0):
        context = Context(
            tmp_path / "state", torch.device("cpu"), "float32", 1, faces(20), pictures(24, 20),
            pictures(8, 20), lambda stage, progress: losses.append(progress.loss),
            identity_weight=weight,
        )  # fmt: skip
        train_stage(context, f"adapter:{name}", steps=2)
        (tmp_path / f"state/adapter-{name}.pt").unlink()
        shutil.copy(state / f"adapter-{name}.safetensors", tmp_path / "state")
    assert losses[1] > losses[0] + 0.1


def test_a_weight_below_zero_is_named(tmp_path: Path):
    assert main(["--identity-loss", "-1", "--state", str(tmp_path)]) == 2
