"""Progress in a log: a line a stage every ten seconds, and one when it is through."""

from __future__ import annotations

from jobs.console import progress_display


def test_each_stage_has_lines_of_its_own_and_one_for_its_end(capsys):
    with progress_display() as progress:
        for scores in range(1, 5):
            progress("images", min(2 * scores, 4), 4)
            progress("scores", scores, 4)
    lines = [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["images: 2/4", "scores: 1/4", "images: 4/4", "scores: 4/4"]
