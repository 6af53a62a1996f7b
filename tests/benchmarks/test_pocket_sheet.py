"""The sheet of held-out people: a row a person, and blind halves that belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.pocket_sheet import COLUMNS, main

pytest.importorskip("gan_face_generate", reason="pip install --no-deps gan-face-generate==1.1.1")


def test_a_row_is_a_photo_and_what_is_made_of_it(tmp_path: Path):
    out, blind = tmp_path / "sheets/out.png", tmp_path / "blind"
    arguments = [str(out), "--people", "3", "--steps", "1", "--split", "validation"]
    assert main([*arguments, "--blind", str(blind)]) == 0
    whole = np.asarray(Image.open(out))
    side = whole.shape[0] // 3
    assert whole.shape == (3 * side, (1 + len(COLUMNS)) * side, 3)
    results = np.asarray(Image.open(blind / "results.png")).astype(int)
    photos = np.asarray(Image.open(blind / "photos.png")).astype(int)
    # Sheets are enlarged as wholes: the edges of their pictures differ.
    assert np.abs(results[:, 8:-8] - whole[:, side + 8 : -8]).mean() < 1
    answers = json.loads((blind / "answers.json").read_text())
    (places,) = answers.values()
    assert sorted(places) == [1, 2, 3]
    for row, place in enumerate(places):
        given = whole[row * side + 8 : (row + 1) * side - 8, 8 : side - 8]
        shown = photos[8 : side - 8, (place - 1) * side + 8 : place * side - 8]
        assert np.abs(given - shown).mean() < 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--people", "0", "people is 0, allowed"), ("--method", "x", "method is 'x', allowed")],
)
def test_a_wrong_option_is_named(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "out.png"), option, value])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
