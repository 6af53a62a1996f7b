"""Judges that a user gives by address: `judges` of a run, name -> file, pack, folder or URL.

What is not given is not loaded, and a metric that needs it is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

__all__ = ["JUDGES", "GivenJudges"]

JUDGES: dict[str, str] = {
    "arcface": "an ONNX file of ArcFace, or an insightface pack's name or folder",
    "adaface": "an ONNX or safetensors file of AdaFace",
    "aesthetic": "the head of aesthetic-predictor-v2.5, a .pth file",
    "hpsv2": "a checkpoint of HPSv2 or HPSv2.1, a .pt or safetensors file",
    "vlm": "the address of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1",
}
"""Name -> what its address is."""

_PACKAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "aesthetic": (("aesthetic_predictor_v2_5", "aesthetic-predictor-v2-5"),),
    "hpsv2": (("open_clip", '"infinite-id-ray[sdxl]"'),),
    "vlm": (("httpx", '"infinite-id-ray[serve]"'),),
}


@dataclass(frozen=True, slots=True)
class GivenJudges:
    """Where judges are, and what else they need.

    Attributes:
        addresses: of `JUDGES` by name; files are local.
        conditions: the face encoder that conditions the methods: "embedded", a pack's name or
            folder; empty where nobody knows.
        vlm_model: name of the model behind `vlm`.
        vlm_key: of that endpoint; it is in no representation.
        adaface_channels: "bgr" or "rgb", the order that the file of AdaFace reads; None: by its
            names.

    Raises:
        ValueError: an unknown name.
    """

    addresses: Mapping[str, str] = field(default_factory=dict)
    conditions: str = ""
    vlm_model: str = ""
    vlm_key: str = field(default="", repr=False)
    adaface_channels: Literal["bgr", "rgb"] | None = None

    def __post_init__(self) -> None:
        for name in self.addresses:
            if name not in JUDGES:
                raise ValueError(f"judge is {name!r}, allowed: {', '.join(JUDGES)}")

    def __contains__(self, name: str) -> bool:
        return name in self.addresses

    def address(self, name: str, metric: str) -> str:
        """Of a judge that a metric needs.

        Raises:
            ValueError: it is not given.
        """
        if name not in self.addresses:
            raise ValueError(
                f"metric {metric} needs the judge {name}, which is not given, allowed: judges with "
                f"{name}: {JUDGES[name]}"
            )
        return self.addresses[name]

    def check(self, needs: Mapping[str, Iterable[str]]) -> None:
        """Refuses what cannot work before any picture is made.

        Args:
            needs: metric -> the networks that it needs.

        Raises:
            ValueError: a judge that is needed is not given, a local file is missing, an endpoint
                is no http address or has no model, a package is missing that a judge needs.
        """
        for name, address in self.required(needs).items():
            self._check(name, address)

    def required(self, needs: Mapping[str, Iterable[str]]) -> dict[str, str]:
        """Address of each judge that a metric needs.

        Args:
            needs: metric -> the networks that it needs.

        Raises:
            ValueError: one is not given.
        """
        return {
            name: self.address(name, metric)
            for metric, names in needs.items()
            for name in names
            if name in JUDGES
        }

    def _check(self, name: str, address: str) -> None:
        if name == "vlm":
            if not address.startswith(("http://", "https://")):
                raise ValueError(f"judge vlm is {address!r}, allowed: an http or https address")
            if not self.vlm_model:
                raise ValueError("judge vlm has no model, allowed: vlm_model with its name")
        elif (
            "://" not in address
            # A pack of insightface has a name or a folder.
            and (name != "arcface" or address.endswith(".onnx"))
            and not Path(address).expanduser().is_file()
        ):
            raise ValueError(f"judge {name} is {address!r}, which is no file, allowed: its weights")
        for package, install in _PACKAGES.get(name, ()):
            if find_spec(package) is None:
                raise ValueError(
                    f"judge {name} needs the package {package}, which is not installed, allowed: "
                    f"pip install {install}"
                )
