"""The benchmarks' command line: wrong input is one sentence, and a result is always shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.run import main

SHORT = ["two_stream"]
for pair in ("counts=[2]", "steps=1", "repeats=1", "size=32", "threads=1"):
    SHORT += ["--set", pair]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["nothing"], "benchmark is 'nothing', allowed: "),
        (["two_stream", "--set", "count=[8]"], "--set is 'count=[8]', allowed keys: model"),
        (["two_stream", "--set", "counts=[8"], "--set is 'counts=[8', allowed: a value in YAML"),
        (["autoencoder_ceiling", "--set", "split=night"], "split is 'night', allowed: "),
        ([*SHORT, "--json", "{tmp}/none/x.json"], "--json is '{tmp}/none/x.json', allowed: a file"),
        ([*SHORT, "--json", "{tmp}"], "--json is '{tmp}', allowed: a file in a folder that exists"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture, tmp_path: Path, options: list[str], sentence: str
) -> None:
    assert main([option.format(tmp=tmp_path) for option in options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {sentence.format(tmp=tmp_path)}")
    assert said.err.count("\n") == 1


def test_a_result_is_shown_and_written(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    main([*SHORT, "--json", str(tmp_path / "x.json")])
    record = json.loads((tmp_path / "x.json").read_text())
    assert set(record) == {"benchmark", "arguments", "figures", "verdicts", "machine"}
    shown = capsys.readouterr().out
    assert all(name in shown for name in record["figures"])


def test_a_full_disk_hides_no_result(capsys: pytest.CaptureFixture) -> None:
    assert main([*SHORT, "--json", "/dev/full"]) == 1
    said = capsys.readouterr()
    assert "two_stream_images_per_s_2" in said.out
    assert said.err == "failed: cannot write /dev/full: No space left on device\n"
