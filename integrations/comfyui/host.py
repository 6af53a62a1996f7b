"""What ComfyUI offers its nodes; where ComfyUI is not there, the CPU, no files and no bar."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["ADAPTERS", "CHECKPOINTS", "device", "file", "files", "make_room", "steps_shown"]

CHECKPOINTS = "checkpoints"
ADAPTERS = "infinite_id"
"""Folders of ComfyUI's `models`."""


def _part(name: str) -> Any:
    """A module of ComfyUI, None where it is not there."""
    top = name.partition(".")[0]
    return import_module(name) if find_spec(top) is not None else None


def files(folder: str) -> list[str]:
    """Names of the model files in a folder of `models`."""
    paths = _part("folder_paths")
    if paths is None:
        return []
    if folder not in paths.folder_names_and_paths:
        paths.add_model_folder_path(folder, str(Path(paths.models_dir) / folder))
        Path(paths.models_dir, folder).mkdir(exist_ok=True)
    found = paths.get_filename_list(folder)
    return [name for name in found if name.endswith((".safetensors", ".bin"))]


def file(folder: str, name: str) -> Path:
    """One of `files`.

    Raises:
        ValueError: it is none of them.
    """
    paths = _part("folder_paths")
    path = None if paths is None else paths.get_full_path(folder, name)
    if path is None:
        have = ", ".join(files(folder)) or "none is there"
        raise ValueError(f"file is {name!r}, allowed in models/{folder}: {have}")
    return Path(path)


def device() -> str:
    """Where ComfyUI computes."""
    management = _part("comfy.model_management")
    return "cpu" if management is None else str(management.get_torch_device())


def make_room() -> None:
    """Takes ComfyUI's own models off the device; it loads them again when they are needed."""
    management = _part("comfy.model_management")
    if management is not None:
        management.unload_all_models()
        management.soft_empty_cache()


def steps_shown(total: int) -> Callable[[int], None]:
    """A function that is told how many steps are done: it moves the node's bar, and ends the work
    where the user has cancelled it."""
    utils, management = _part("comfy.utils"), _part("comfy.model_management")
    bar = None if utils is None else utils.ProgressBar(total)

    def done(steps: int) -> None:
        if management is not None:
            management.throw_exception_if_processing_interrupted()
        if bar is not None:
            bar.update_absolute(steps, total)

    return done
