"""`benchmark --scenario`: what it refuses before anything is loaded, and what it lists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(job: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / job), *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_scenarios_are_listed_with_a_line_each():
    done = run("benchmark.py", "--list-scenarios")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert "interpolation: Linear interpolation between two people" in lines


@pytest.mark.parametrize(
    ("job", "options", "words"),
    [
        ("benchmark.py", ["--scenario", "x"], "scenario is 'x', allowed: main_table, "),
        ("benchmark.py", ["--scenario", "scatter", "--config", "c.yaml"], "beside a scenario"),
        ("benchmark.py", ["--weights", "photomaker"], "allowed: NAME=PATH, comma-separated"),
        ("benchmark.py", ["--scenario", "scatter", "--tracking-uri", "x"], "tracking URI is 'x'"),
        ("dreambooth.py", ["--output", "o", "--prior-weight", "-1"], "prior_weight is -1.0"),
        ("dreambooth.py", ["--output", "o", "--identities", "no.csv"], "no.csv does not exist"),
        ("compare.py", ["one"], "got 1 runs, allowed: 2 or more, or --log RUN_DIR"),
        ("compare.py", ["one", "two"], "run folder one does not exist"),
        ("compare.py", ["runs:/1", "two"], "allowed with it: --tracking-uri"),
        ("compare.py", ["--log", "nowhere"], "nowhere is no run folder"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(job, options, words):
    done = run(job, *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
