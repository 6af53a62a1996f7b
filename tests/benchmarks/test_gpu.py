"""The command for a lent GPU, with small sizes on the CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.run import check


@pytest.mark.timeout(600)
def test_parts_leave_their_figures_as_they_come(tmp_path: Path, monkeypatch, capsys):
    wanted = ("eager", "faster")
    few = [
        replace(p, seconds=280, command=(*p.command, "--set", "counts=[2]"))
        for p in gpu.parts(True, None, tmp_path)
        if p.name in wanted
    ]
    broken = gpu.Part("broken", 60, ("benchmarks.run", "nothing"))
    absent = gpu.Part("absent", 60, ("no_such_module",))
    monkeypatch.setattr(gpu, "parts", lambda *_: [few[0], broken, absent, few[1]])
    assert gpu.main(["--small", "--output", str(tmp_path / "out")]) == 1
    results = {row["part"]: row for row in json.loads((tmp_path / "out/gpu.json").read_text())}
    assert results["eager"]["figures"]["two_stream_images_per_s_2"] > 0
    assert results["faster"]["figures"]["two_stream_images_per_s_2"] > 0
    assert results["broken"]["outcome"] == "failed: exit code 2, see its log"
    assert results["absent"]["outcome"] == "not run: no_such_module is not installed"
    table = (tmp_path / "out/gpu.md").read_text()
    assert "two_stream_images_per_s_2" in table
    assert capsys.readouterr().out.count("\n") == 4


def test_no_time_left_is_said(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(gpu, "_LEAST_SECONDS", 1e6)
    assert gpu.main(["--small", "--output", str(tmp_path)]) == 0
    assert {row["outcome"] for row in json.loads((tmp_path / "gpu.json").read_text())} == {
        "not run: no time left"
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--minutes", "0"], "--minutes is 0"), (["--pack", "nowhere"], "--pack is nowhere")],
)
def test_wrong_input_is_one_sentence(options, sentence, tmp_path: Path, capsys):
    assert gpu.main([*options, "--output", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_requirement_that_was_not_run_is_no_failure():
    wanted = [{"figure": "speedup_16", "at_least": 1.75}]
    assert check({"speedup_8": 1.7}, wanted, part=True)[0]["holds"] is None
    assert check({"speedup_8": 1.7}, wanted)[0]["holds"] is False
    assert check({"speedup_16": 1.8}, wanted, part=True)[0]["holds"] is True
