"""Commands that are run as files: a wrong input ends as one sentence, whatever was imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize(
    ("job", "words", "named"),
    [
        ("compare.py", ["no run", "no other"], "no run"),
        ("dreambooth.py", ["--identities", "nobody", "--output", "out"], "nobody"),
    ],
)
def test_a_wrong_input_is_one_sentence_of_the_process(tmp_path, job, words, named):
    done = subprocess.run(
        [sys.executable, str(JOBS / job), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert list(tmp_path.iterdir()) == []
