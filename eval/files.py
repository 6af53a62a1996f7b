"""Folders on any file system: plain paths, `file://`, `s3://` and whatever else fsspec knows.

A write is atomic everywhere and needs no rename on object stores: there an object appears only
when its upload is complete; on a local disk the bytes go to a temporary name first.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from fsspec.implementations.local import LocalFileSystem

from eval.places import StorageError, StorageOptions, guarding, place_of

__all__ = ["Files"]

_TEMPORARY = ".writing-"
_PRECONDITION = 412  # of HTTP


class Files:
    """A folder that files are read from and written to.

    Picklable, so that an actor can hold one.

    Args:
        address: a path or a URL such as ``s3://bucket/folder``, see `eval.places.place_of`.
        options: of file systems by scheme, e.g. ``{"s3": {"endpoint_url": ...}}``.

    Attributes:
        address: opens it again, together with `options`; it may hold a password.
        url: the address as it may be shown.
        fs, root: the file system, and its own path of the folder.

    Raises:
        StorageError: unknown scheme, no bucket, or a package is missing.
    """

    def __init__(self, address: str | Path, options: Mapping[str, Any] | None = None) -> None:
        self.options = options if isinstance(options, StorageOptions) else StorageOptions(options)
        place = place_of(address, self.options)
        self.fs, self.root, self.address, self.url = place.fs, place.path, place.address, place.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str, StorageOptions]]:
        return type(self), (self.address, self.options)

    @classmethod
    def of_file(
        cls, address: str | Path, options: Mapping[str, Any] | None = None
    ) -> tuple[Self, str]:
        """The folder that a file lies in, and its name there.

        Raises:
            StorageError: as of the class, or the address ends where a name should stand.
        """
        place = place_of(address, options)
        local = isinstance(place.fs, LocalFileSystem)
        # The query of a URL may hold a slash.
        path = place.address if local else place.address.partition("?")[0]
        folder, slash, name = path.rpartition("/")
        if not name or folder.endswith(":/"):
            raise StorageError(f"address is {place.url!r}, allowed: that of a file in a folder")
        return cls(folder or slash, options), name + place.address[len(path) :]

    def below(self, name: str) -> Self:
        """The folder of that name in this one."""
        return type(self)(f"{self.address.rstrip('/')}/{name}", self.options)

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on a disk of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """The file system's own path of `name` inside this folder."""
        return f"{self.root}/{name}" if name else self.root or "/"

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder of that name is there."""
        return self._guard("look at", name, lambda: self.fs.exists(self.path(name)))

    def is_file(self) -> bool:
        """Whether the place is a file and no folder."""
        return self._guard("look at", "", lambda: self.fs.isfile(self.path()))

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Sorted names of the finished files directly in `folder`, those that end in `suffix`."""
        return sorted(name for name in self.iter_names(folder) if name.endswith(suffix))

    def iter_names(self, folder: str = "") -> Iterator[str]:
        """Names of the finished files directly in `folder`, in any order and not all in memory at
        once where the file system allows it: a folder of a long run holds millions.

        Raises:
            StorageError: the folder cannot be listed; nothing is raised where there is none.
        """
        pages = self._scan(folder) if self.is_local else self._list(folder)
        while True:
            name = self._guard("list", folder, lambda: next(pages, None))
            if name is None:
                return
            if not name.startswith(_TEMPORARY):
                yield name

    def _scan(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(self.path(folder)) as entries:
                yield from (entry.name for entry in entries if entry.is_file())
        except FileNotFoundError:
            return

    def _list(self, folder: str) -> Iterator[str]:
        self.fs.invalidate_cache()
        if hasattr(self.fs, "call_s3"):
            yield from self._list_s3(f"{self.path(folder)}/")
            return
        try:
            entries = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return
        yield from (e["name"].rsplit("/", 1)[-1] for e in entries if e["type"] == "file")

    def holds(self) -> list[str]:
        """Names of the files and folders directly in this one; none where it is not there."""

        def listing() -> list[str]:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = self.fs.ls(self.path(), detail=False)
                return [name.rstrip("/").rsplit("/", 1)[-1] for name in found]
            return []

        return self._guard("list", "", listing)

    def read_bytes(self, name: str) -> bytes:
        """The content of one file."""
        return self._guard("read", name, lambda: self.fs.cat_file(self.path(name)))

    def write_bytes(self, name: str, data: bytes, *, flush: bool = True) -> None:
        """Writes one file: whole or not at all, replacing an earlier one.

        Args:
            name: of the file.
            data: all of it.
            flush: to the disk, so that it outlives the machine and not just the process.
        """

        def write() -> None:
            target = self.path(name)
            if not self.is_local:
                self.fs.pipe_file(target, data)
                return
            folder, base = os.path.split(target)
            Path(folder).mkdir(parents=True, exist_ok=True)
            temporary = Path(folder, f"{_TEMPORARY}{uuid.uuid4().hex}-{base}")
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    if flush:
                        file.flush()
                        os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

        self._guard("write", name, write)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a small file where there is none; of several writers at once one succeeds.

        On a disk by a link, which the system makes once; on S3 and Google's store by a conditional
        put. Other stores look first, and two writers within a moment may both succeed.

        Returns:
            Whether it was written; False where the file was there.
        """

        def write() -> bool:
            target = self.path(name)
            try:
                if self.is_local:
                    _link(target, data)
                else:
                    self.fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
            except TypeError:  # a client that knows no such mode
                if self.fs.exists(target):
                    return False
                self.fs.pipe_file(target, data)
            except Exception as error:  # each client has its own
                if "PreconditionFailed" in repr(error) or "ConditionalRequest" in repr(error):
                    return False
                if getattr(error, "code", None) == _PRECONDITION:
                    return False
                raise
            return True

        return bool(self._guard("write", name, write))

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A file to write piece by piece: it appears whole at the end, or after an error never.

        Raises:
            StorageError: it cannot be written.
        """
        target = self.path(name)
        temporary = target
        if self.is_local:
            folder, base = os.path.split(target)
            temporary = f"{folder}/{_TEMPORARY}{uuid.uuid4().hex}-{base}"
            self._guard("write", name, lambda: Path(folder).mkdir(parents=True, exist_ok=True))
        file = self._guard("write", name, lambda: self.fs.open(temporary, "wb"))
        try:
            yield _Guarded(file, lambda action: self._guard("write", name, action))
        except BaseException:
            # Closing would make an object store publish what is there.
            if self.is_local:
                file.close()
                Path(temporary).unlink(missing_ok=True)
            else:
                file.discard()
                file.closed = True  # else its destructor would publish what is buffered
            raise
        if not self.is_local:
            self._guard("write", name, file.close)
            return

        def finish() -> None:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            Path(temporary).replace(target)

        self._guard("write", name, finish)

    def _list_s3(self, prefix: str) -> Iterator[str]:
        # s3fs' own listing holds a record of a kilobyte for each object, and caches them all.
        bucket, _, key = prefix.partition("/")
        wanted = {"Bucket": bucket, "Prefix": key, "Delimiter": "/"}
        while True:
            page = self.fs.call_s3("list_objects_v2", **wanted)
            yield from (entry["Key"].rsplit("/", 1)[-1] for entry in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def touch(self, name: str) -> None:
        """An empty file, not flushed to the disk: a mark that may be lost with the machine."""

        def write() -> None:
            if not self.is_local:
                self.fs.pipe_file(self.path(name), b"")
                return
            path = Path(self.path(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

        self._guard("write", name, write)

    def sweep(self, folders: Iterable[str] = ("",)) -> None:
        """Removes what writers left that died in the middle of a file. For the one that holds the
        lease; on object stores such files never appear.

        Args:
            folders: that the lease's holder writes to, each alone and not what lies below it:
                other runs and exports may write there.
        """

        def remove() -> None:
            for folder in folders:
                with contextlib.suppress(FileNotFoundError), os.scandir(self.path(folder)) as found:
                    for entry in found:
                        if entry.name.startswith(_TEMPORARY):
                            Path(entry.path).unlink(missing_ok=True)

        if self.is_local:
            self._guard("clean", "", remove)

    def delete(self, name: str) -> None:
        """Removes one file; nothing happens if it is not there."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.path(name))

        self._guard("delete", name, remove)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """One file, open, to be read piece by piece.

        Raises:
            StorageError: it cannot be read, then or while it is open.
        """
        with self._guarding("read", name), self.fs.open(self.path(name), "rb") as file:
            yield file

    def check_writable(self) -> None:
        """Raises StorageError unless a file can be written here; leaves no file and no folder."""
        made = [] if not self.is_local else _missing_folders(Path(self.root))
        probe = f".probe-{uuid.uuid4().hex}"
        self.write_bytes(probe, b"")
        self.delete(probe)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _guard(self, verb: str, name: str, action: Any) -> Any:
        with self._guarding(verb, name):
            return action()

    def _guarding(self, verb: str, name: str) -> contextlib.AbstractContextManager[None]:
        return guarding(verb, f"{self.url}/{name}" if name else self.url)


def _link(target: str, data: bytes) -> None:
    """Makes a file that is whole from its beginning; FileExistsError where there is one."""
    folder, base = os.path.split(target)
    Path(folder).mkdir(parents=True, exist_ok=True)
    temporary = Path(folder, f"{_TEMPORARY}{uuid.uuid4().hex}-{base}")
    try:
        temporary.write_bytes(data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with Path(target).open("xb") as file:
                file.write(data)
    finally:
        temporary.unlink(missing_ok=True)


def _missing_folders(folder: Path) -> list[Path]:
    """A folder and those above it that are not there, the innermost first."""
    return [one for one in (folder, *folder.parents) if not one.exists()]


class _Guarded:
    """A file whose writes raise StorageError."""

    def __init__(self, file: Any, guard: Any) -> None:
        self._file, self._guard = file, guard

    def write(self, data: Any) -> None:
        """Writes all of it."""
        self._guard(lambda: self._file.write(data))
