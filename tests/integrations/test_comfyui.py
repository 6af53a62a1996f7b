"""The ComfyUI nodes by ComfyUI's protocol: loaded as it loads a folder, walked as it walks."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infinite_id import METHODS, PRESETS, InfiniteIDPipeline, __version__
from tests.infinite_id.single_file import two_widths, write_checkpoint
from tests.infinite_id.tiny import write_pocket_adapter
from tests.integrations.comfyui_walker import LoadImage, Refused, SaveImage, Workflow, read, walk

ROOT = Path(__file__).resolve().parents[2]
NODES = ROOT / "integrations" / "comfyui"
README = NODES / "README.md"
SAMPLES = ROOT / "infinite_id" / "assets" / "samples"
ADA, BOB = SAMPLES / "person-1.png", SAMPLES / "person-2.png"


def load(folder: Path) -> Any:
    """As ComfyUI's load_custom_node does."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def classes() -> dict[str, Any]:
    LoadImage.folder = SAMPLES
    own = {"LoadImage": LoadImage, "SaveImage": SaveImage, "PreviewImage": SaveImage}
    return {**own, **load(NODES).NODE_CLASS_MAPPINGS}


@pytest.fixture(scope="module")
def shipped() -> Workflow:
    return read(NODES / "example_workflows" / "two_people_api.json")


@pytest.fixture(scope="module")
def done(classes: dict[str, Any], shipped: Workflow) -> dict[str, Any]:
    return walk(changed(shipped, "8", steps=2), classes)


@pytest.fixture
def model(done: dict[str, Any]) -> InfiniteIDPipeline:
    return done["1"][0]


def changed(workflow: Workflow, node: str, **inputs: Any) -> Workflow:
    other = copy.deepcopy(workflow)
    other[node]["inputs"] |= inputs
    return other


def sample(classes: dict[str, Any], shipped: Workflow, model: Any, **values: Any) -> Any:
    inputs = {**shipped["8"]["inputs"], "steps": 2, "people": None, **values}
    return classes["InfiniteIDSample"]().sample(**{**inputs, "model": model})[0]


def test_the_example_makes_the_pictures_of_the_python_interface(done: dict[str, Any]) -> None:
    pipe = done["1"][0]
    ada = pipe.identity(ADA, class_word="woman")
    bob = pipe.identity(BOB, class_word="man")
    expected = pipe(
        "a {subject} on the beach", [ada, pipe.mix(ada, bob, weight=0.5), bob],
        style="comic_book", seed=7, num_inference_steps=2, output_type="np",
    )  # fmt: skip
    (images,) = done["8"]
    assert images.shape == (3, 64, 64, 3)
    np.testing.assert_allclose(images.numpy(), expected.images, atol=1 / 255)
    assert SaveImage.saved[0] is images
    people = [one.identity_id for one in done["7"][0]]
    assert people == ["person", "person:0.5+person:0.5", "person"]


def test_faces_come_out_to_be_looked_at(done: dict[str, Any], model: InfiniteIDPipeline) -> None:
    assert done["4"][1].shape == (1, 112, 112, 3)
    found = (done["4"][1][0] * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(found, model.faces(ADA)[0].aligned)


def test_photos_of_several_sizes_are_one_person(
    classes: dict[str, Any], model: InfiniteIDPipeline
) -> None:
    photo = LoadImage().load_image("person-1.png")[0]
    node = classes["InfiniteIDPerson"]()
    values = {"model": model, "class_word": "", "face": "largest", "face_number": 0}
    people, faces = node.person(
        photos=torch.cat([photo, photo.flip(2)]), photos_2=photo[:, 2:], **values
    )
    assert len(people) == 1
    assert faces.shape == (3, 112, 112, 3)
    assert people[0].class_word == "person"


def test_a_face_by_its_number(classes: dict[str, Any], model: InfiniteIDPipeline) -> None:
    pair = torch.cat([LoadImage().load_image(f"person-{n}.png")[0] for n in (1, 2)], dim=2)
    node = classes["InfiniteIDPerson"]()
    values = {"model": model, "photos": pair, "class_word": "man"}
    (bob,), _ = node.person(face="by number", face_number=1, **values)
    assert bob.embedding.face @ model.identity(BOB).embedding.face > 0.9
    with pytest.raises(ValueError, match="2 faces found, one is allowed"):
        node.person(face="single", face_number=0, **values)


def test_a_group_stands_in_one_picture(
    classes: dict[str, Any], shipped: Workflow, done: dict[str, Any], model: InfiniteIDPipeline
) -> None:
    both, node = (*done["4"][0], *done["5"][0]), classes["InfiniteIDGroup"]()
    halves = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    (people,) = node.group(model, both, "left to right")
    assert people[0].regions == tuple(halves)
    found = sample(classes, shipped, model, prompt="a {subject}", people=people, seed=3)
    expected = model("a {subject}", model.group(*both, regions=halves), seed=3,
                     style="comic_book", num_inference_steps=2, output_type="np")  # fmt: skip
    assert found.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(found.numpy(), expected.images, atol=1 / 255)
    masks = torch.zeros(2, 64, 64)
    masks[0, :, :32], masks[1, :, 32:] = 1.0, 1.0
    (masked,) = node.group(model, both, "masks", masks)
    assert [one.shape for one in masked[0].regions] == [(64, 64)] * 2
    assert node.group(model, both, "auto")[0][0].regions is None
    with pytest.raises(ValueError, match="regions is 'masks' and masks are missing, allowed"):
        node.group(model, both, "masks")


def test_every_setting_reaches_the_pipeline(
    classes: dict[str, Any], shipped: Workflow, done: dict[str, Any], model: InfiniteIDPipeline
) -> None:
    settings: dict[str, Any] = {
        "negative_prompt": "blue", "style": "anime", "method": "infinite_id_mutual", "seed": 9,
        "guidance_scale": 3.0, "identity_scale": 0.5, "identity_start": 0.3, "identity_end": 0.9,
        "guidance_start": 0.1, "guidance_end": 0.6, "width": 80, "height": 48,
    }  # fmt: skip
    ada, bob = done["4"][0], done["5"][0]
    (people,) = classes["InfiniteIDMix"]().mix(model, ada, bob, "stack", 0.5)
    own = {"people": people, "steps": 4, "batch_size": 2}
    found = sample(classes, shipped, model, prompt="a {subject}", **own, **settings)
    expected = model(
        "a {subject}", model.stack(ada[0], bob[0]), num_images_per_prompt=2, output_type="np",
        num_inference_steps=4, **settings,
    )  # fmt: skip
    assert found.shape == (2, 48, 80, 3)
    np.testing.assert_array_equal(found.numpy(), expected.images)


def test_methods_that_are_offered_make_pictures(
    classes: dict[str, Any], shipped: Workflow, done: dict[str, Any], model: InfiniteIDPipeline
) -> None:
    offered, _ = classes["InfiniteIDSample"].INPUT_TYPES()["required"]["method"]
    editors = {name for name, spec in METHODS.items() if spec.whole}
    assert set(METHODS) - set(offered) == {"timed", "dreambooth", "dreambooth_no_prior"} | editors
    for method in ("ip_adapter", "photomaker", "text_only"):
        people = None if method == "text_only" else done["4"][0]
        made = sample(classes, shipped, model, people=people, method=method, steps=1)
        assert made.shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("8", {"identity_end": 1.5}, "identity_end: 1.5 bigger than max of 1.0"),
        ("8", {"seed": -1}, "seed: -1 smaller than min of 0"),
        ("8", {"style": "baroque"}, "Value not in list: style: 'baroque'"),
        ("8", {"people": ["1", 0]}, "people: INFINITE_ID is linked to INFINITE_ID_PEOPLE"),
        ("4", {"photos": ["8", 0, 0]}, "a link is wanted"),
        ("1", {"preset": "magic"}, "Value not in list: preset"),
        ("1", {"checkpoint": "../../x.safetensors"}, "Value not in list: checkpoint"),
    ],
)
def test_comfyui_refuses_before_anything_runs(
    classes: dict[str, Any], shipped: Workflow, node: str, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=re.escape(message)):
        walk(changed(shipped, node, **inputs), classes)


def test_a_person_is_put_into_a_picture(
    classes: dict[str, Any], shipped: Workflow, done: dict[str, Any], model: InfiniteIDPipeline
) -> None:
    ada, scene = done["4"][0], LoadImage().load_image("person-2.png")[0]
    mask = torch.zeros(1, *scene.shape[1:3])
    mask[:, :, : scene.shape[2] // 2] = 1
    own = {"people": ada, "steps": 3, "seed": 9, "strength": 1.0}
    found = sample(classes, shipped, model, image=scene, mask=mask, **own)
    inputs = shipped["8"]["inputs"]
    expected = model(
        inputs["prompt"], list(ada), style=inputs["style"], seed=9, num_inference_steps=3,
        image=scene[0].numpy(), mask_image=mask[0].numpy(), strength=1.0, output_type="np",
    )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), expected.images, atol=1 / 255)
    apart = np.abs(found.numpy() - sample(classes, shipped, model, **own).numpy()).mean(
        axis=(0, 1, 3)
    )
    assert apart[40:].mean() > 0.05
    for values, message in (
        ({"image": torch.cat([scene, scene])}, "image is a batch of 2, allowed: 1"),
        ({"mask": mask}, "mask is linked without image, allowed: with image"),
        ({"image": scene, "mask": mask * 0}, "mask_image is black everywhere, allowed"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            sample(classes, shipped, model, **{**own, **values})


def test_what_nodes_refuse_is_one_sentence(
    classes: dict[str, Any], shipped: Workflow, done: dict[str, Any], model: InfiniteIDPipeline
) -> None:
    ada, three = done["4"][0], done["7"][0]
    person = classes["InfiniteIDPerson"]()
    values = {"model": model, "class_word": "man", "face": "single", "face_number": 0}
    refused = {
        "identity is None, allowed with method 'infinite_id': a photo": lambda: sample(
            classes, shipped, model
        ),
        "identity_start is 0.8 and identity_end 0.2, allowed: 0 <=": lambda: sample(
            classes, shipped, model, people=ada, identity_start=0.8, identity_end=0.2
        ),
        "identity_start is 0.5, allowed with method 'photomaker': 0": lambda: sample(
            classes, shipped, model, people=ada, identity_start=0.5, method="photomaker"
        ),
        "first is 3 people, allowed: one": lambda: classes["InfiniteIDMix"]().mix(
            model, three, ada, "stack", 0.5
        ),
        "photo: no face": lambda: person.person(photos=torch.zeros(1, 64, 64, 3), **values),
        "photos have the shape (1, 64, 64, 4), allowed: (B, H, W, 3)": lambda: person.person(
            photos=torch.zeros(1, 64, 64, 4), **values
        ),
        "adapter is None, allowed with base stabilityai": lambda: classes["InfiniteIDLoad"]().load(
            "sdxl"
        ),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            call()
        assert "\n" not in str(caught.value)


HOST = {
    "comfy/__init__.py": "",
    "comfy/utils.py": (
        "seen = []\n"
        "class ProgressBar:\n"
        "    def __init__(self, total): self.total = total\n"
        "    def update_absolute(self, value, total=None): seen.append((value, total))\n"
    ),
    "comfy/model_management.py": (
        "asked, most = [], 10**9\n"
        "class InterruptProcessingException(Exception): pass\n"
        "def get_torch_device(): return 'cpu'\n"
        "def unload_all_models(): pass\n"
        "def soft_empty_cache(): pass\n"
        "def throw_exception_if_processing_interrupted():\n"
        "    asked.append(1)\n"
        "    if len(asked) > most: raise InterruptProcessingException()\n"
    ),
    "folder_paths.py": (
        "from pathlib import Path\n"
        "models_dir = str(Path(__file__).parent / 'models')\n"
        "folder_names_and_paths = {'checkpoints': [models_dir + '/checkpoints']}\n"
        "def add_model_folder_path(name, path): folder_names_and_paths[name] = [path]\n"
        "def get_filename_list(name):\n"
        "    folder = Path(folder_names_and_paths[name][0])\n"
        "    return sorted(path.name for path in folder.glob('*'))\n"
        "def get_full_path(name, file):\n"
        "    path = Path(folder_names_and_paths[name][0]) / file\n"
        "    return str(path) if path.is_file() else None\n"
    ),
}


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four modules of ComfyUI that the nodes ask, with the signatures that it has."""
    for name, text in HOST.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("comfy", "comfy.utils", "comfy.model_management", "folder_paths"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_steps_move_the_bar_and_cancelling_ends_them(
    classes: dict[str, Any], shipped: Workflow, done: dict[str, Any], comfyui: Path
) -> None:
    model, ada = done["1"][0], done["4"][0]
    one = sample(classes, shipped, model, people=ada)
    utils: Any = sys.modules["comfy.utils"]
    management: Any = sys.modules["comfy.model_management"]
    assert utils.seen == [(1, 2), (2, 2)]
    management.asked.clear()
    management.most = 1
    with pytest.raises(management.InterruptProcessingException):
        sample(classes, shipped, model, people=ada)
    assert utils.seen == [(1, 2), (2, 2), (1, 2)]
    management.most = 10**9
    # What was cancelled leaves nothing behind.
    torch.testing.assert_close(sample(classes, shipped, model, people=ada), one)


def test_files_are_those_of_the_models_folders(classes: dict[str, Any], comfyui: Path) -> None:
    node = classes["InfiniteIDLoad"]
    (comfyui / "models/checkpoints/own.safetensors").write_bytes(b"nothing")
    (comfyui / "models/checkpoints/own.ckpt").write_bytes(b"nothing")
    offered = node.INPUT_TYPES()["optional"]
    assert offered["checkpoint"][0] == ["(the preset's)", "own.safetensors"]
    assert offered["adapter"][0] == ["(the preset's)"]
    with pytest.raises(ValueError, match=r"preset is 'pocket', allowed with a checkpoint: those"):
        node().load("pocket", "own.safetensors")
    with pytest.raises(ValueError, match=r"own\.safetensors are no whole safetensors file"):
        node().load("sdxl_plus_face", "own.safetensors")
    with pytest.raises(
        ValueError, match=r"file is 'x.bin', allowed in models/infinite_id: none is"
    ):
        node().load("sdxl", adapter="x.bin")


def test_a_checkpoint_and_identity_weights_of_ones_own(
    classes: dict[str, Any],
    shipped: Workflow,
    comfyui: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the text encoders and the VAE waiting on the CPU. The settings that a checkpoint lacks
    are SDXL's, here the tiny model's in the hub's cache."""
    open_preset = PRESETS["sdxl_plus_face_open"]
    monkeypatch.setitem(
        PRESETS, "sdxl_plus_face_open", replace(open_preset, encoders=PRESETS["pocket"].encoders)
    )
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = cache / f"models--{open_preset.base.replace('/', '--')}" / "snapshots"
    settings /= str(open_preset.base_revision)
    pipe = two_widths()
    pipe.save_pretrained(settings)
    write_checkpoint(comfyui / "models/checkpoints/own.safetensors", pipe)
    node = classes["InfiniteIDLoad"]
    node.INPUT_TYPES()
    adapter = write_pocket_adapter(comfyui / "models/infinite_id/mine.safetensors")
    assert "mine.safetensors" in node.INPUT_TYPES()["optional"]["adapter"][0]
    given = ("sdxl_plus_face_open", "own.safetensors", "mine.safetensors")
    (model,) = node().load(*given, offload=True)
    assert model.base.offloads
    people, _ = classes["InfiniteIDPerson"]().person(
        model, LoadImage().load_image("person-1.png")[0], "man", "single", 0
    )
    made = sample(classes, shipped, model, people=people, width=16, height=16)
    over = InfiniteIDPipeline.from_pipe(
        pipe, adapter=adapter, encoders="pocket", sampler=model.preset.sampler
    )
    values = {name: shipped["8"]["inputs"][name] for name in ("prompt", "style", "seed")}
    expected = over(
        identity=list(people), num_inference_steps=2, height=16, width=16, output_type="np",
        **values,
    ).images  # fmt: skip
    np.testing.assert_allclose(made.numpy(), expected, atol=2 / 255)


def test_it_is_a_distribution_of_its_own() -> None:
    project = tomllib.loads((NODES / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert project["dependencies"] == [f"infinite-id-ray=={__version__}"]


def test_its_wheel_is_a_custom_node_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built and installed, and loaded by ComfyUI through the one line of the README."""
    source = shutil.copytree(NODES, tmp_path / "source")
    uv = Path(sys.executable).with_name("uv")
    build = ["build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([uv, *build, "--out-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("infinite_id_comfyui-*.whl")
    site = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run([uv, *install], check=True)
    monkeypatch.syspath_prepend(site)
    node = tmp_path / "custom_nodes" / "infinite_id"
    node.mkdir(parents=True)
    (line,) = re.findall(r"^    (from infinite_id_comfyui .*)$", README.read_text("utf-8"), re.M)
    (node / "__init__.py").write_text(f"{line}\n")
    loaded = load(node).NODE_CLASS_MAPPINGS
    assert list(loaded) == list(load(NODES).NODE_CLASS_MAPPINGS)
    assert Path(sys.modules["infinite_id_comfyui"].__file__ or "").is_relative_to(site)
    shipped = read(site / "infinite_id_comfyui" / "example_workflows" / "two_people_api.json")
    LoadImage.folder = SAMPLES
    own = {"LoadImage": LoadImage, "SaveImage": SaveImage, "PreviewImage": SaveImage}
    (images,) = walk(changed(shipped, "8", steps=1), {**own, **loaded})["8"]
    assert images.shape == (3, 64, 64, 3)
