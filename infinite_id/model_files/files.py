"""Where a model's files lie and what they hold: a folder or the hub, known by content.

A model is a folder of parts (diffusers' layout: `unet/`, `vae/` ...) or one part alone (a CLIP
tower). Its name is a digest over its weights and settings, so the same files are the same model
wherever they lie, and other files another one. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from infinite_id.model_files.headers import first_line
from infinite_id.packages import file_digest

__all__ = [
    "BASE_PARTS",
    "SCHEDULER",
    "ModelFiles",
    "model_digest",
    "open_model",
    "weight_files",
    "wanted_variant",
]

BASE_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_STEMS = ("diffusion_pytorch_model", "model")
SCHEDULER = "scheduler/scheduler_config.json"
_OF_THE_WHOLE = ("model_index.json", SCHEDULER)
_HUB_SECONDS = 10.0


@dataclass(frozen=True)
class ModelFiles:
    """A model in a folder, or in a hub's repository that is not on this machine yet.

    Attributes:
        address: as the user wrote it.
        names: of its files, with forward slashes.
        folder: on this machine; None where only the hub has it.
        revision: of the hub.
        digests: SHA-256 of the large files as the hub lists them.
    """

    address: str
    names: frozenset[str]
    folder: Path | None = None
    revision: str | None = None
    digests: Mapping[str, str] | None = None

    def path(self, name: str) -> Path:
        """A file on this machine; a small one is downloaded.

        Raises:
            ValueError: it cannot be had; names model and file.
        """
        if name not in self.names:
            raise ValueError(f"model {self.address} has no file {name}")
        if self.folder is not None:
            return self.folder / name
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.address, name, revision=self.revision))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model {self.address}: {name} cannot be had: {first_line(error)}"
            ) from error

    def digest(self, name: str) -> str:
        """SHA-256 of a file's content."""
        known = (self.digests or {}).get(name)
        return known or file_digest(self.path(name))

    def json(self, name: str) -> dict[str, Any]:
        """A settings file.

        Raises:
            ValueError: it is not there or no JSON object; names model and file.
        """
        try:
            found = json.loads(self.path(name).read_text("utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"model {self.address}: {name} is no JSON: {first_line(error)}"
            ) from error
        if not isinstance(found, dict):
            raise ValueError(f"model {self.address}: {name} is no JSON object")
        return found

    @cached_property
    def variants(self) -> dict[str, frozenset[str | None]]:
        """Of each part, the variants of its weights that are there; None is full precision."""
        found: dict[str, set[str | None]] = {}
        for name in self.names:
            part, _, file = name.rpartition("/")
            stem, _, rest = file.partition(".")
            pieces = rest.split(".")
            if stem.partition("-")[0] in _STEMS and "safetensors" in pieces:
                # Shards: model-00001-of-00002.safetensors, model.fp16-00001-of-00002.safetensors
                first = pieces[0].partition("-")[0]
                found.setdefault(part, set()).add(None if first == "safetensors" else first)
        return {part: frozenset(kinds) for part, kinds in found.items()}


def open_model(
    address: str, revision: str | None, complete: Callable[[ModelFiles], object]
) -> ModelFiles:
    """The files of a model: of a folder, else of this machine's hub cache, else of the hub.

    Args:
        address: a folder or a hub id.
        revision: of the hub.
        complete: raises a ValueError where the cache lacks what will be read.

    Raises:
        ValueError: no such folder and no such hub id, or the hub does not answer; at once.
    """
    folder = Path(address).expanduser()
    if folder.is_dir():
        return _of_folder(address, folder)
    if folder.is_file():
        raise ValueError(
            f"model {address} is a file, allowed: a folder in diffusers' layout or a hub id; a "
            "checkpoint in one file is taken by InfiniteIDPipeline.from_pretrained alone"
        )
    if len(folder.parts) != 2 or folder.is_absolute() or address.startswith((".", "~")):
        raise ValueError(f"model folder {address} does not exist")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(address, revision=revision, local_files_only=True))
        files = _of_folder(address, cached)
        complete(files)
        return files
    except (LocalEntryNotFoundError, ValueError):
        pass
    try:
        found = HfApi().model_info(
            address, revision=revision, files_metadata=True, timeout=_HUB_SECONDS
        )
    except Exception as error:  # of httpx, of the hub, of its offline mode
        raise ValueError(
            f"model {address} (revision {revision}) is no folder, is not in this machine's hub "
            f"cache, and the hub does not give it: {first_line(error)}"
        ) from error
    siblings = found.siblings or []
    digests = {one.rfilename: one.lfs.sha256 for one in siblings if one.lfs is not None}
    names = frozenset(one.rfilename for one in siblings)
    return ModelFiles(address, names, None, revision, digests)


def _of_folder(address: str, folder: Path) -> ModelFiles:
    # A download that was broken off leaves temporary names in hidden folders.
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = (path.as_posix() for path in paths if not path.parts[0].startswith("."))
    return ModelFiles(address, frozenset(names), folder)


def wanted_variant(
    files: ModelFiles, parts: Iterable[str], dtype: str, variant: str | None
) -> str | None:
    """The variant of the weights to read: what was asked for, else half precision where it is
    wanted and there, else full.

    Raises:
        ValueError: the variant asked for is not there, or full precision is wanted of a model
            that has half precision alone.
    """
    have = {part: files.variants.get(part, frozenset()) for part in parts}
    if variant is not None:
        if not any(variant in kinds for kinds in have.values()):
            known = sorted({kind or "none (full precision)" for k in have.values() for kind in k})
            raise ValueError(
                f"model {files.address} has no variant {variant!r}, allowed: {', '.join(known)}"
            )
        return variant
    half = any("fp16" in kinds for kinds in have.values())
    if dtype != "float32":
        return "fp16" if half else None
    for part, kinds in have.items():
        if kinds == {"fp16"}:
            raise ValueError(
                f"model {files.address} has {part or 'its weights'} in half precision alone (fp16) "
                "and dtype is float32, allowed: dtype bfloat16 or float16, or variant fp16 to "
                "compute in float32 with them"
            )
    return None


def weight_files(files: ModelFiles, part: str, variant: str | None) -> list[str]:
    """The safetensors files of a part, all of its shards.

    Raises:
        ValueError: there is none, a shard is missing, or there are pickled weights alone.
    """
    place = f"{part}/" if part else ""
    kinds = files.variants.get(part, frozenset())
    chosen = variant if variant in kinds else None
    for stem in _STEMS:
        name = f"{place}{stem}.{chosen}" if chosen else f"{place}{stem}"
        if f"{name}.safetensors" in files.names:
            return [f"{name}.safetensors"]
        indices = (
            f"{place}{stem}.safetensors.index.{chosen}.json",
            f"{name}.safetensors.index.json",
        )
        for index in indices:
            if index in files.names:
                shards = sorted(set(files.json(index).get("weight_map", {}).values()))
                for shard in shards:
                    if f"{place}{shard}" not in files.names:
                        raise ValueError(
                            f"model {files.address} lacks {place}{shard}, which {index} names"
                        )
                return [f"{place}{shard}" for shard in shards]
    if not part and "pytorch_model.bin" in files.names:
        # Of towers alone; transformers reads it without executing anything in it.
        return ["pytorch_model.bin"]
    pickled = [n for n in files.names if n.rpartition("/")[0] == part and n.endswith(".bin")]
    also = f" (there is {sorted(pickled)[0]}, a pickle, which is not read)" if pickled else ""
    raise ValueError(
        f"model {files.address} has no weights of {part or 'the network'}{also}, allowed: "
        f"{place}{'model' if part != 'unet' and part != 'vae' else _STEMS[0]}.safetensors"
    )


def model_digest(files: ModelFiles, parts: Iterable[str], variant: str | None) -> str:
    """12 hex digits of the content of a model's weights and settings, wherever they lie."""
    digest = hashlib.sha256()
    for part in sorted(parts):
        for name in weight_files(files, part, variant):
            digest.update(f"{name}:{files.digest(name)}\n".encode())
        name = f"{part}/config.json" if part else "config.json"
        digest.update(f"{name}:{files.digest(name)}\n".encode())
    for name in _OF_THE_WHOLE:
        if name in files.names:
            digest.update(f"{name}:{files.digest(name)}\n".encode())
    return digest.hexdigest()[:12]
