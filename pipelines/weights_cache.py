"""Weights on object stores, copied once to each machine.

diffusers reads folders and hub ids. An address such as s3://bucket/sdxl is copied to a folder of
this machine's cache first; actors on one machine share the copy, and a copy is whole or absent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infinite_id.config import Preset
from infinite_id.packages import cache_folder
from pipelines.storage import StorageError, Store

__all__ = ["local_preset", "local_weights"]

_OWN = ("hub://",)


def local_weights(address: str, options: Mapping[str, Any] | None = None) -> str:
    """A local path of a weights folder or file.

    Args:
        address: a path or hub id, which comes back as it is, or an fsspec address.
        options: of the fsspec file system.

    Raises:
        StorageError: the address cannot be read.
    """
    if "://" not in address or address.startswith(_OWN):
        return address
    store = Store(address, options)
    if not store.exists():
        raise StorageError(f"weights {address} do not exist")
    # The address names the content: a changed folder needs a new address, as a hub's revision does.
    name = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    target = cache_folder() / "weights" / f"{name}-{store.root.rsplit('/', 1)[-1]}"
    if target.exists():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix=".copying-", dir=target.parent))
    try:
        inside = copy / "content"
        store.fs.get(store.root, str(inside), recursive=not store.is_file())
        try:
            os.rename(inside, target)  # noqa: PTH104 -- must fail where another copy was faster
        except OSError:
            if not target.exists():
                raise
    except (OSError, FileNotFoundError) as error:
        raise StorageError(f"cannot copy weights {address}: {error}") from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return str(target)


def local_preset(family: Preset, options: Mapping[str, Any] | None = None) -> Preset:
    """`family` with its base and adapter on this machine."""
    adapter = family.adapter_path
    return replace(
        family,
        base=local_weights(family.base, options),
        adapter_path=None if adapter is None else local_weights(adapter, options),
    )
