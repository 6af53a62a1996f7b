"""Progress in a log: a line a stage every ten seconds, and one when it is through."""

from __future__ import annotations

import itertools

from jobs import console
from jobs.console import progress_display


def test_each_stage_has_lines_of_its_own_and_one_for_its_end(capsys):
    with progress_display() as progress:
        for scores in range(1, 5):
            progress("images", min(2 * scores, 4), 4)
            progress("scores", scores, 4)
    lines = [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["images: 2/4", "scores: 1/4", "images: 4/4", "scores: 4/4"]


def test_the_next_run_of_a_command_has_a_rate_of_its_own(capsys, monkeypatch):
    seconds = itertools.count(1000, 20)
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(seconds)))
    with progress_display() as progress:
        for done in (10, 20, 30):
            progress("images", done, 30)
        for done in (10, 20, 30):
            progress("images", done, 40)
        for done in (10, 20):
            progress("images", done, 40)
    assert capsys.readouterr().out.splitlines() == [
        "images: 10/30",
        "images: 20/30, 0.50 a second, 20 s left",
        "images: 30/30, 0.50 a second",
        "images: 10/40",
        "images: 20/40, 0.50 a second, 40 s left",
        "images: 30/40, 0.50 a second, 20 s left",
        "images: 10/40",
        "images: 20/40, 0.50 a second, 40 s left",
    ]
