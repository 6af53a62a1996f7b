"""Names of weights and settings: what makes a picture what it is, besides the request."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from infinite_id.config import Preset
from infinite_id.packages import cache_folder, file_revision
from pipelines.tables.storage import StorageError, Store

__all__ = [
    "method_revision",
    "weights_revision",
    "local_preset",
    "local_weights",
]

_OWN = ("hub://",)


def weights_revision(family: Preset) -> tuple[str, bool]:
    """(name of the base's and adapter's weights, whether any of them is untrained)."""
    if family.base == "pocket":
        from infinite_id.pocket import weights as pocket_weights

        return pocket_weights.revision(), not pocket_weights.is_trained()
    adapter = family.adapter_path
    if adapter is None:
        return f"{family.base}@{family.base_revision}+untrained", True
    return f"{family.base}@{family.base_revision}+{_file_digest(adapter)}", False


def _file_digest(path: str) -> str:
    return file_revision(path, 16) if Path(path).is_file() else path


def method_revision(method: str, family: Preset, weights: str) -> str:
    """Names a method's settings and weights; changes when a picture could change."""
    from infinite_id.methods import METHODS

    settings = asdict(family)
    # A baseline's own file counts by its content, another method's not at all.
    settings["weights"] = [
        _file_digest(path) for name, path in family.weights if method.startswith(name)
    ]
    what: list[Any] = [method, repr(METHODS[method]), sorted(settings.items()), weights]
    return f"{method}-{hashlib.blake2b(repr(what).encode(), digest_size=6).hexdigest()}"


def local_weights(address: str, options: Mapping[str, Any] | None = None) -> str:
    """A local path of a weights folder or file.

    Args:
        address: a path or hub id, which comes back as it is, or an fsspec address.
        options: of file systems by scheme.

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
