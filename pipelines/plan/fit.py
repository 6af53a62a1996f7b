"""Whether the parts of a model fit each other, told by names and shapes before a run starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infinite_id.config import Preset
from infinite_id.methods import METHODS, trained_weights
from pipelines.plan.weights import is_public

__all__ = ["NOT_CHECKED", "adapter_address", "check_fit", "face_network"]

logger = logging.getLogger(__name__)

NOT_CHECKED = "adapter %s is a pickle: its keys and shapes are checked when it is downloaded"

_ADAPTERS = (":infinite_id", ":ip_adapter", ":ip_adapter_face")


def check_fit(preset: Preset, methods: Iterable[str]) -> None:
    """Refuses a face network and adapters that do not fit. Nothing is downloaded: of a file at
    hub:// the header is read there, and a line tells which one has none.

    Args:
        preset: of `pipelines.plan.weights.local_preset`.
        methods: of METHODS.

    Raises:
        ValueError: one sentence with the file and the key, or the network that a pack lacks.
    """
    if preset.encoders.faces != "embedded":
        face_network(preset)
    given = {preset.adapter_path, *dict(preset.weights).values()}
    # What nobody named is shipped with its base, and fits it.
    found = {adapter_address(name, preset) for name in methods} & (given - {None})
    addresses = sorted(str(address) for address in found)
    if not addresses:
        return
    from infinite_id.weights.shapes import adapter_parameters, base_unet

    unet = base_unet(preset)
    for address in addresses:
        if adapter_parameters(address, preset, unet) is None:
            logger.warning(NOT_CHECKED, address)


def adapter_address(method: str, preset: Preset) -> str | None:
    """Of the file that holds a method's adapter; None: it takes none, or may be untrained.

    Raises:
        ValueError: nobody trained any (`infinite_id.methods.trained_weights`).
    """
    spec = METHODS[method]
    return trained_weights(spec, preset, is_public) if spec.factory.endswith(_ADAPTERS) else None


def face_network(preset: Preset) -> Any:
    """The preset's face network, on the CPU; None where insightface has to fetch it first.

    Raises:
        ValueError: it cannot be loaded, or is of another width than the adapter's.
    """
    from infinite_id.faces.loading import load_face_backend

    faces = preset.encoders.faces
    installed = Path("~/.insightface/models").expanduser() / faces
    if faces != "embedded" and not Path(faces).expanduser().is_dir() and not installed.is_dir():
        return None
    backend = load_face_backend(faces, providers=["CPUExecutionProvider"])
    if backend.face_width != preset.encoders.face_width:
        raise ValueError(
            f"face backend {faces} is {backend.face_width} wide, allowed: "
            f"{preset.encoders.face_width}"
        )
    return backend
