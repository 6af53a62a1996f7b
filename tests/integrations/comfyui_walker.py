"""ComfyUI's node protocol in small: a workflow of API format is checked as `validate_inputs` of its
execution.py checks one, and walked node by node in inference mode, as it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["LoadImage", "Refused", "SaveImage", "read", "walk"]

Workflow = dict[str, dict[str, Any]]
_CONVERTED = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class Refused(Exception):
    """What ComfyUI shows before anything runs."""


class LoadImage:
    """ComfyUI's own node, over a folder."""

    folder: ClassVar[Path]
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = sorted(path.name for path in cls.folder.iterdir())
        return {"required": {"image": (names, {"image_upload": True})}}

    def load_image(self, image: str) -> tuple[Tensor, Tensor]:
        pixels = np.array(Image.open(self.folder / image).convert("RGB")).astype(np.float32) / 255
        return torch.from_numpy(pixels)[None], torch.zeros((1, 64, 64))


class SaveImage:
    """ComfyUI's own node, into memory."""

    saved: ClassVar[list[Tensor]] = []
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": ("IMAGE", {})},
            "optional": {"filename_prefix": ("STRING", {"default": "ComfyUI"})},
        }

    def save_images(self, images: Tensor, filename_prefix: str = "") -> dict[str, Any]:
        self.saved.append(images)
        return {"ui": {"images": []}}


def read(path: Path) -> Workflow:
    return json.loads(path.read_text("utf-8"))


def walk(workflow: Workflow, classes: Mapping[str, Any]) -> dict[str, Any]:
    """Runs all output nodes with what they need; returns every node's outputs."""
    for name, node in workflow.items():
        if node["class_type"] not in classes:
            raise Refused(f"node {name}: {node['class_type']} is unknown")
        _check(name, workflow, classes)
    done: dict[str, Any] = {}
    with torch.inference_mode():
        for name, node in workflow.items():
            if getattr(classes[node["class_type"]], "OUTPUT_NODE", False):
                _run(name, workflow, classes, done)
    return done


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _check(name: str, workflow: Workflow, classes: Mapping[str, Any]) -> None:
    given = workflow[name]["inputs"]
    kinds = classes[workflow[name]["class_type"]].INPUT_TYPES()
    known = {**kinds.get("required", {}), **kinds.get("optional", {})}
    for key in kinds.get("required", {}):
        if key not in given:
            raise Refused(f"node {name}: Required input is missing: {key}")
    for key, value in given.items():
        assert key in known, f"node {name} has no input {key}"
        kind, options = (*known[key], {})[:2]
        if _is_link(value):
            source = classes[workflow[value[0]]["class_type"]]
            received = source.RETURN_TYPES[value[1]]
            if received != kind:
                raise Refused(f"node {name}: {key}: {received} is linked to {kind}")
            continue
        if isinstance(kind, str) and kind not in _CONVERTED:
            raise Refused(f"node {name}: {key} is {value!r}, a link is wanted")
        value = _CONVERTED[kind](value) if isinstance(kind, str) else value
        if isinstance(kind, list) and value not in kind:
            raise Refused(f"node {name}: Value not in list: {key}: {value!r} not in {kind}")
        if "min" in options and value < options["min"]:
            raise Refused(f"node {name}: {key}: {value} smaller than min of {options['min']}")
        if "max" in options and value > options["max"]:
            raise Refused(f"node {name}: {key}: {value} bigger than max of {options['max']}")
        given[key] = value


def _run(name: str, workflow: Workflow, classes: Mapping[str, Any], done: dict[str, Any]) -> Any:
    if name not in done:
        node = workflow[name]
        values = {
            key: _run(value[0], workflow, classes, done)[value[1]] if _is_link(value) else value
            for key, value in node["inputs"].items()
        }
        cls = classes[node["class_type"]]
        made = getattr(cls(), cls.FUNCTION)(**values)
        outputs = made if isinstance(made, tuple) else ()
        assert len(outputs) == len(cls.RETURN_TYPES)
        for kind, value in zip(cls.RETURN_TYPES, outputs, strict=True):
            if kind == "IMAGE":
                assert value.dtype == torch.float32
                assert (value.ndim, value.shape[-1]) == (4, 3)
                assert 0 <= value.min() <= value.max() <= 1
        done[name] = outputs
    return done[name]
