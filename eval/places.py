"""Addresses: what a path or a URL names, how it is shown, and the file system that opens it.

A path is taken as it is, whatever stands in it: `[x]`, `%20`, `?`, `#`, `::` are letters of a name.
Text with `://` is a URL. What gives access stays inside: passwords and signatures of a URL are
masked wherever it is shown, and the values of storage options are never shown at all.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

__all__ = [
    "Place",
    "StorageError",
    "StorageOptions",
    "guarding",
    "place_of",
    "reason_of",
    "shown",
    "unknown_option",
]

_MASK = "***"
_CLIENTS = ("botocore", "aiobotocore", "aiohttp")
_PASSWORD = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)([^\s/:@?#]*)(:[^\s/@?#]*)?@")
_SECRET = re.compile(
    r"([?&;](?:[\w.~%-]*(?:sig|token|secret|passw|credential|key|auth)[\w.~%-]*)=)[^&;#\s'\"]+",
    re.IGNORECASE,
)
# Their addresses begin with a bucket's or a container's name.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"}


def shown(text: str) -> str:
    """`text` with the passwords and signatures of all addresses in it masked."""
    masked = _PASSWORD.sub(lambda m: f"{m[1]}{m[2]}:{_MASK}@" if m[3] else f"{m[1]}{_MASK}@", text)
    return _SECRET.sub(rf"\1{_MASK}", masked)


class StorageError(ValueError):
    """A place that cannot be read or written; the message is one sentence that names it."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class StorageOptions(Mapping[str, Mapping[str, Any]]):
    """Options of fsspec file systems by scheme, `{"s3": {"endpoint_url": ...}}`.

    They may hold keys and passwords, so that printing them gives the options' names alone.

    Args:
        options: by scheme; an alias (s3a, https) has the options of its scheme.

    Raises:
        ValueError: not of this form; the message has no value.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        if not isinstance(options or {}, Mapping):
            raise ValueError(
                f'storage options are a {type(options).__name__}, allowed: {{"SCHEME": {{...}}}}'
            )
        known = fsspec.available_protocols()
        for scheme, values in (options or {}).items():
            if scheme not in known:
                raise ValueError(
                    f"storage options name {scheme!r}, which is no scheme, allowed: options by "
                    'scheme, e.g. {"s3": {"endpoint_url": "http://..."}}'
                )
            if not isinstance(values, Mapping):
                raise ValueError(
                    f"storage options of {scheme!r} are a {type(values).__name__}, allowed: a "
                    'mapping, e.g. {"s3": {"endpoint_url": "http://..."}}'
                )
        self._options = {scheme: dict(values) for scheme, values in (options or {}).items()}

    def __getitem__(self, scheme: str) -> Mapping[str, Any]:
        return self._options[scheme]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __repr__(self) -> str:
        parts = (f"{scheme}: {', '.join(values)}" for scheme, values in self._options.items())
        return f"StorageOptions({'; '.join(parts)})"

    def of(self, protocols: tuple[str, ...]) -> dict[str, Any]:
        """The options of a file system that has these names."""
        return next((self._options[name] for name in protocols if name in self._options), {})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            serialization=core_schema.plain_serializer_function_ser_schema(repr, when_used="json"),
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder.

    Attributes:
        fs: the file system.
        path: its own, without a slash at the end; "" is a file system's root.
        address: opens it again, together with the options.
        url: the address as it may be shown.
    """

    fs: Any
    path: str
    address: str
    url: str


def place_of(address: str | Path, options: Mapping[str, Any] | None = None) -> Place:
    """What an address names.

    Args:
        address: a path (`~` at its start is the home folder), `file://` with percent-encoding, or
            any URL that fsspec knows, `a://...::b://...` too.
        options: by scheme, see `StorageOptions`. The usual environment (`AWS_*`) is read by the
            file systems themselves.

    Raises:
        StorageError: it is empty, of no known scheme, names no bucket, or needs a package that is
            missing.
    """
    text = str(address)
    given = options if isinstance(options, StorageOptions) else StorageOptions(options)
    if not text or "\0" in text:
        raise StorageError(f"address is {text!r}, allowed: a path or a URL")
    if isinstance(address, Path) or "://" not in text:
        return _local(text, given)
    scheme, _, rest = text.partition("://")
    if scheme == "file" and "::" not in text:
        host = urlsplit(text).netloc
        if host not in ("", "localhost"):
            raise StorageError(f"address is {text!r}, allowed: file:///PATH of this machine")
        return _local(os.fsdecode(unquote_to_bytes(rest.removeprefix(host))) or "/", given)
    if scheme in _BUCKETS and not rest.split("/")[0]:
        raise StorageError(f"{text} names no bucket, allowed: {scheme}://BUCKET/FOLDER")
    text = text.rstrip("/")
    try:
        fs, path = fsspec.core.url_to_fs(text, **_chain_options(text, given))
    except ImportError as error:
        raise StorageError(
            f"{text} needs a package that is not installed ({error}); for s3:// install "
            "infinite-id-ray[s3]"
        ) from error
    except TypeError as error:
        raise StorageError(f"cannot open {text}: {unknown_option(error) or error}") from error
    except ValueError as error:
        raise StorageError(f"{text} is no address that fsspec knows ({error})") from error
    return Place(fs, str(path).rstrip("/"), text, shown(text))


def _local(text: str, options: StorageOptions) -> Place:
    if options.of(("file", "local")):
        raise StorageError(f"storage options of 'file' are {options!r}, allowed: none")
    home = text == "~" or text.startswith("~/")
    absolute = str((Path(text).expanduser() if home else Path(text)).absolute())
    # POSIX keeps two slashes at the start apart from one; no file system here does.
    absolute = "/" + absolute.lstrip("/")
    return Place(LocalFileSystem(), absolute.rstrip("/"), absolute, absolute)


def _chain_options(text: str, options: StorageOptions) -> dict[str, Any]:
    """The options of each file system in `a://...::b://...`, by the names used there."""
    found = {}
    for part in text.split("::"):
        scheme = part.partition("://")[0]
        try:
            names = fsspec.get_filesystem_class(scheme).protocol
        except (ImportError, ValueError):
            continue  # url_to_fs says so
        mine = options.of((scheme, *((names,) if isinstance(names, str) else names)))
        if mine:
            found[scheme] = dict(mine)
    return found


def unknown_option(error: BaseException) -> str | None:
    """The sentence of a storage option that a file system does not know, None for other errors."""
    named = re.search(r"unexpected keyword argument '(.+?)'", str(error))
    if not isinstance(error, TypeError) or named is None:
        return None
    return f"storage option {named[1]!r} is unknown, allowed: what its file system takes"


@contextlib.contextmanager
def guarding(verb: str, place: str) -> Iterator[None]:
    """Any failure of a place as a StorageError that names it.

    Args:
        verb: what is done, e.g. "read".
        place: its address.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        # boto's credential and endpoint errors share no base class with OSError.
        option = unknown_option(error)
        if option is not None:
            raise StorageError(f"cannot {verb} {place}: {option}") from error
        # Not above: commands that refuse their arguments begin here, and pyarrow takes a while.
        from pyarrow import ArrowInvalid

        known = isinstance(error, (OSError, ArrowInvalid))
        if not known and type(error).__module__.split(".")[0] not in _CLIENTS:
            raise
        raise StorageError(f"cannot {verb} {place}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """What a file system's error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
