"""The shipped tokenizer is what its module makes."""

from __future__ import annotations

from pathlib import Path

import pytest

import infinite_id
from infinite_id.training.tokenizer import main

SHIPPED = Path(infinite_id.__file__).parent / "assets" / "pocket" / "tokenizer"


def test_the_shipped_files_are_made_again_to_the_byte(tmp_path: Path) -> None:
    main([str(tmp_path / "new")])
    made = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert made == {path.name: path.read_bytes() for path in SHIPPED.iterdir()}


def test_a_folder_that_is_a_file_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "file")])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said == f"error: folder is {tmp_path}/file, allowed: one to write to (File exists)\n"
