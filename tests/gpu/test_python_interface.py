"""InfiniteIDPipeline on a CUDA device: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from infinite_id import InfiniteIDPipeline
from tests.infinite_id.test_python_interface import ADA, BOB

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def made(pipe: InfiniteIDPipeline) -> Any:
    pipe.set_progress_bar_config(disable=True)
    values: dict[str, Any] = {"seed": 3, "num_inference_steps": 4, "output_type": "np"}
    return pipe("a {subject}", [ADA, BOB], **values).images


def loaded() -> InfiniteIDPipeline:
    return InfiniteIDPipeline.from_pretrained("pocket", dtype=torch.float32)


@pytest.fixture(scope="module")
def expected() -> Any:
    return made(loaded())


def test_pictures_are_those_of_the_cpu(expected: Any) -> None:
    pipe = loaded().to("cuda")
    np.testing.assert_allclose(made(pipe), expected, atol=4 / 255)
    assert np.abs(made(pipe.to(torch.bfloat16)) - expected).mean() < 0.05


def test_what_is_offloaded_waits_on_the_cpu(expected: Any) -> None:
    pipe = loaded()
    pipe.enable_model_cpu_offload()
    np.testing.assert_allclose(made(pipe), expected, atol=4 / 255)
    own = pipe.base.pipeline
    kinds = [part.device.type for part in (own.unet, own.vae, own.text_encoder)]
    assert kinds == ["cuda", "cpu", "cpu"]


def test_compiled_is_eager(expected: Any) -> None:
    pipe = loaded().to("cuda")
    pipe.compile()
    np.testing.assert_allclose(made(pipe), expected, atol=4 / 255)
