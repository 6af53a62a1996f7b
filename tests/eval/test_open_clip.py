"""The OpenCLIP scorer on a small random model in open_clip's own folder format.

open_clip needs torchvision, which beside a CPU torch has no operators and which the default
install must not contain. `make test` therefore puts both into a folder of their own, and this test
runs in a process that sees it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.judges.open_clip import OpenClip

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(
    os.environ.get("INFINITE_ID_OPEN_CLIP_FOLDER") or Path(sys.prefix) / "extras/open_clip"
)

# Beside a CPU torch, torchvision's registration fails for want of two operators.
PREPARE = """
import json, sys
from pathlib import Path
import numpy as np
import torch
if torch.version.cuda is None and torch.version.hip is None:
    stub = torch.library.Library("torchvision", "FRAGMENT")
    stub.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    stub.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import open_clip
from PIL import Image
from safetensors.torch import save_file
from eval.judges.open_clip import OpenClip
from eval.suite import load_suite

folder = Path(sys.argv[1])
config = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
torch.manual_seed(3)
model = open_clip.CLIP(**config).eval()
save_file(model.state_dict(), folder / "open_clip_model.safetensors")
(folder / "open_clip_config.json").write_text(
    json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
)
scorer = OpenClip(f"local-dir:{folder}", device="cpu")
rng = np.random.default_rng(0)
images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((64, 64, 3), (90, 130, 3))]
texts = ["a woman on the beach", "a man in the snow, anime style"]
suite = load_suite(["text_score", "style_score"], "sdxl", image_text=scorer)
scores = suite.score(images, texts, [[], []], ["", "anime style"])

# The expected values: open_clip's own loading, transform, tokenizer and forward pass.
own, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
with torch.inference_mode():
    pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    image, text, _ = own.eval()(pixels, tokens)
# HPSv2 is a checkpoint of one of open_clip's own architectures: a small one, registered here.
from eval.judges.preference import HPSv2
(folder / "tiny.json").write_text(json.dumps(config))
open_clip.add_model_config(folder / "tiny.json")
torch.save({"state_dict": model.state_dict()}, folder / "hps.pt")
hps = HPSv2(str(folder / "hps.pt"), architecture="tiny")
plain = open_clip.create_model("tiny", pretrained=str(folder / "hps.pt")).eval()
# Wide, tall, smaller than the network's 48 px, and too narrow for a whole pixel.
shapes = ((64, 64, 3), (90, 130, 3), (130, 61, 3), (48, 48, 3), (20, 31, 3), (300, 2, 3))
shown = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
said = [texts[n % 2] for n in range(len(shown))]
# HPSv2's own preparation (ToTensor, the longer side resized, black around), by torchvision.
from torchvision.transforms import InterpolationMode, Normalize
from torchvision.transforms import functional as vision

def prepare(image):
    pixels = vision.to_tensor(image)
    sides = [max(1, round(side * 48 / max(image.shape[:2]))) for side in image.shape[:2]]
    pixels = vision.resize(pixels, sides, InterpolationMode.BICUBIC, antialias=True)
    down, across = 48 - sides[0], 48 - sides[1]
    edges = [across // 2, down // 2, across - across // 2, down - down // 2]
    clip = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return Normalize(*clip)(vision.pad(pixels, edges, fill=0))

with torch.inference_mode():
    fed = torch.stack([prepare(image) for image in shown])
    image_2, text_2, _ = plain(fed, open_clip.get_tokenizer("tiny")(said))
(folder / "broken.pt").write_bytes(b"no checkpoint")
try:
    HPSv2(str(folder / "broken.pt"), architecture="tiny")
    refused = ""
except ValueError as error:
    refused = str(error)

print(json.dumps({
    "hps": hps.score(shown, said).tolist(),
    "hps_expected": (image_2 * text_2).sum(dim=1).tolist(),
    "hps_refused": refused,
    "image_error": float(np.abs(scorer.embed_images(images) - image.numpy()).max()),
    "text_error": float(np.abs(scorer.embed_texts(texts) - text.numpy()).max()),
    "norms": np.linalg.norm(scorer.embed_images(images), axis=1).tolist(),
    "spread": float(image.std()),
    "expected": (image * text).sum(dim=1).tolist(),
    "found": scores["text_score"].tolist(),
    "styles": np.isnan(scores["style_score"]).tolist(),
    "revision": suite.metrics["text_score"].revision,
}))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    if not (FOLDER / "open_clip").is_dir():
        return None
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(FOLDER)]),
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.run(
        [sys.executable, "-c", PREPARE, str(tmp_path_factory.mktemp("clip"))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture
def open_clip_result(result, need):
    need("open_clip", result is not None, f"`make test` installs it into {FOLDER}")
    return result


def test_features_equal_open_clips_own(open_clip_result):
    # Pillow resizes in both; torchvision rounds to the same pixels.
    assert open_clip_result["image_error"] < 1e-5
    assert open_clip_result["text_error"] < 1e-5
    assert open_clip_result["norms"] == pytest.approx([1, 1])
    assert open_clip_result["spread"] > 0.01


def test_text_score_is_the_cosine(open_clip_result):
    assert open_clip_result["found"] == pytest.approx(open_clip_result["expected"], abs=1e-5)


def test_hpsv2_is_the_cosine_of_its_checkpoint(open_clip_result):
    """Of whole pictures, as HPSv2 sees them: none is cut."""
    assert open_clip_result["hps"] == pytest.approx(open_clip_result["hps_expected"], abs=1e-5)
    assert "which does not load" in open_clip_result["hps_refused"]


def test_a_style_without_words_is_unscorable(open_clip_result):
    assert open_clip_result["styles"] == [True, False]


def test_the_revision_names_the_model(open_clip_result):
    assert open_clip_result["revision"].startswith("open_clip:local-dir:")


def test_without_open_clip_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"infinite-id-ray\[sdxl\]"):
        OpenClip()
