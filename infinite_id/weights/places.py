"""Files of weights by address: a path, or hub://OWNER/NAME@REVISION/FILE. Torch-free."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from infinite_id.model_files.headers import read_header
from infinite_id.packages import file_digest

__all__ = ["is_public_adapter", "local_file", "weights_digest"]

_HUB_FILE = re.compile(r"hub://([^/@]+/[^/@]+)@([^/]+)/(.+)")


def local_file(address: str | Path) -> Path:
    """A file's path; one at hub://OWNER/NAME@REVISION/FILE is downloaded or found in the cache.

    Raises:
        ValueError: an address of another form, or a file that cannot be had; names the address.
    """
    cached = _cached(address)
    if cached is not None:
        return cached
    return _download(str(address))


def _cached(address: str | Path) -> Path | None:
    """The path of a file on this machine; None for one at hub:// that is not."""
    text = str(address)
    if not text.startswith("hub://"):
        return Path(text).expanduser()
    from huggingface_hub import try_to_load_from_cache

    found = _HUB_FILE.fullmatch(text)
    if found is None:
        raise ValueError(f"weights are at {text!r}, allowed: hub://OWNER/NAME@REVISION/FILE")
    cached = try_to_load_from_cache(found[1], found[3], revision=found[2])
    return Path(cached) if isinstance(cached, str) else None


def _download(text: str) -> Path:
    found = _HUB_FILE.fullmatch(text)
    assert found is not None  # noqa: S101 -- `_cached` has matched it
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(found[1], found[3], revision=found[2]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"weights at {text} cannot be had: {reason}") from error


def weights_digest(address: str) -> str:
    """SHA-256 of a file of weights, or of all files of a folder; of one at hub:// that is not on
    this machine the hub says it.

    Raises:
        ValueError: there is no such file or folder; names the address.
    """
    path = _cached(address)
    if path is None:
        return _hub_digest(address)
    if path.is_dir():
        lines = (
            f"{one.relative_to(path).as_posix()}:{file_digest(one)}\n"
            for one in sorted(path.rglob("*"))
            if one.is_file()
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    if not path.is_file():
        raise ValueError(f"weights {address} do not exist")
    return file_digest(path)


def _hub_digest(address: str) -> str:
    from huggingface_hub import HfApi

    found = _HUB_FILE.fullmatch(address)
    assert found is not None  # noqa: S101 -- `_cached` has matched it
    try:
        (info,) = HfApi().get_paths_info(found[1], [found[3]], revision=found[2])
        return str(info.lfs.sha256)  # type: ignore[union-attr]
    except Exception as error:  # of httpx, of the hub, of its offline mode
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"weights at {address} cannot be had: {lines[0]}") from error


def is_public_adapter(path: str | Path) -> bool:
    """Whether a file of adapter weights is in a public format: any .bin, or safetensors without
    this project's own header (`infinite_id.weights.adapter_file`).

    Raises:
        ValueError: there is no such file, or it is not whole.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"adapter {path} does not exist")
    if file.suffix != ".safetensors":
        return True
    metadata = read_header(file).get("__metadata__", {})
    return metadata.get("format") != "infinite-id-adapter"
