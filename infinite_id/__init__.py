"""Infinite-ID (ECCV 2024, arXiv 2403.11781): the model, without Ray, MLflow or storage.

    from infinite_id import InfiniteIDPipeline

Names are loaded when they are first used: importing this loads no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infinite_id.config import PRESETS
    from infinite_id.methods import METHODS, load_generators
    from infinite_id.pipeline import InfiniteIDPipeline
    from infinite_id.types import Identity

__all__ = [
    "InfiniteIDPipeline",
    "Identity",
    "load_generators",
    "METHODS",
    "PRESETS",
    "__version__",
]

try:
    __version__ = version("infinite-id-ray")
except PackageNotFoundError:  # a copy of the folder that nobody installed
    __version__ = "unknown"

_HOMES = {
    "InfiniteIDPipeline": "infinite_id.pipeline",
    "Identity": "infinite_id.types",
    "load_generators": "infinite_id.methods",
    "METHODS": "infinite_id.methods",
    "PRESETS": "infinite_id.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'infinite_id' has no attribute {name!r}")
    return getattr(_imported(_HOMES[name]), name)


def _imported(module: str) -> Any:
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm warns, once, of what diffusers' bars would want.
        warnings.simplefilter("ignore", TqdmWarning)
        importlib.import_module("tqdm.auto")
    # transformers warns at its import where torchvision is not installed, which is meant so here.
    variable = "TRANSFORMERS_VERBOSITY"
    if variable in os.environ or "transformers" in sys.modules:
        return importlib.import_module(module)
    os.environ[variable] = "error"
    try:
        made = importlib.import_module(module)
    finally:
        del os.environ[variable]
    if "transformers" in sys.modules:
        importlib.import_module("transformers").utils.logging.set_verbosity_warning()
    return made


def __dir__() -> list[str]:
    return sorted(__all__)
