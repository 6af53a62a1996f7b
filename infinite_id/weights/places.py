"""Files of weights by address: a path, or hub://OWNER/NAME@REVISION/FILE. Torch-free."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from infinite_id.model_files.headers import first_line, read_header
from infinite_id.packages import file_digest

__all__ = ["file_here", "is_public_adapter", "local_file", "weights_digest", "weights_header"]

_HUB_FILE = re.compile(r"hub://([^/@]+/[^/@]+)@([^/]+)/(.+)")


def local_file(address: str | Path) -> Path:
    """A file's path; one at hub://OWNER/NAME@REVISION/FILE is downloaded or found in the cache.

    Raises:
        ValueError: an address of another form, or a file that cannot be had; names the address.
    """
    cached = file_here(address)
    if cached is not None:
        return cached
    return _download(str(address))


def file_here(address: str | Path) -> Path | None:
    """The path of a file on this machine; None for one at hub:// that is not.

    Raises:
        ValueError: an address of another form.
    """
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
    assert found is not None  # noqa: S101 -- `file_here` has matched it
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(found[1], found[3], revision=found[2]))
    except (OSError, ValueError) as error:
        raise ValueError(f"weights at {text} cannot be had: {first_line(error)}") from error


def weights_header(address: str | Path) -> dict[str, dict[str, Any]] | None:
    """The header of a safetensors file (`infinite_id.model_files.headers.read_header`); of one at
    hub:// that is not on this machine the hub gives it alone. None: a pickle, which has none.

    Raises:
        ValueError: it cannot be had, or is no such file; names the address.
    """
    if not str(address).endswith(".safetensors"):
        return None
    path = file_here(address)
    if path is not None:
        return read_header(path)
    from huggingface_hub import HfApi

    found = _HUB_FILE.fullmatch(str(address))
    assert found is not None  # noqa: S101 -- `file_here` has matched it
    try:
        told = HfApi().parse_safetensors_file_metadata(found[1], found[3], revision=found[2])
    except Exception as error:  # of httpx, of the hub, of its offline mode
        raise ValueError(f"weights at {address} cannot be had: {first_line(error)}") from error
    return {
        "__metadata__": dict(told.metadata),
        **{
            name: {"dtype": one.dtype, "shape": one.shape, "data_offsets": one.data_offsets}
            for name, one in told.tensors.items()
        },
    }


def weights_digest(address: str) -> str:
    """SHA-256 of a file of weights, or of all files of a folder; of one at hub:// that is not on
    this machine the hub says it.

    Raises:
        ValueError: there is no such file or folder; names the address.
    """
    path = file_here(address)
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
    assert found is not None  # noqa: S101 -- `file_here` has matched it
    try:
        (info,) = HfApi().get_paths_info(found[1], [found[3]], revision=found[2])
        return str(info.lfs.sha256)  # type: ignore[union-attr]
    except Exception as error:  # of httpx, of the hub, of its offline mode
        raise ValueError(f"weights at {address} cannot be had: {first_line(error)}") from error


def is_public_adapter(address: str | Path) -> bool:
    """Whether a file of adapter weights is in a public format: any .bin, or safetensors without
    this project's own header (`infinite_id.weights.adapter_file`). Nothing is downloaded for it.

    Raises:
        ValueError: there is no such file, or it is not whole.
    """
    path = file_here(address)
    if path is not None and not path.is_file():
        raise ValueError(f"adapter {address} does not exist")
    header = weights_header(address)
    return header is None or header.get("__metadata__", {}).get("format") != "infinite-id-adapter"
