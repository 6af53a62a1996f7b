"""`benchmark --scenario`: what it refuses before anything is loaded, and what it lists."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from jobs import benchmark as command
from jobs import scenarios

ROOT = Path(__file__).resolve().parents[2]


def test_scenarios_are_listed_with_a_line_each():
    # As `ray job submit` runs it: the file, not the installed command.
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "benchmark.py"), "--list-scenarios"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    assert "interpolation: Linear interpolation between two people" in lines


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("benchmark", ["--scenario", "x"], "scenario is 'x', allowed: main_table, "),
        ("benchmark", ["--scenario", "scatter", "--config", "c.yaml"], "beside a scenario"),
        ("benchmark", ["--weights", "photomaker"], "allowed: NAME=ADDRESS, comma-separated"),
        ("benchmark", ["--scenario", "scatter", "--tracking-uri", "x"], "tracking URI is 'x'"),
        (
            "benchmark",
            ["--from", "coco:x"],
            "--from is 'coco:x', allowed: multiid:FOLDER or multiid-groups:FOLDER or ref",
        ),
        ("benchmark", ["--from", "multiid:no"], "MultiID-Bench folder 'no' does not exist"),
        ("benchmark", ["--from", "multiid:no", "--prompts", "p.csv"], "given beside --from"),
        ("benchmark", ["--judges", "magface=f"], "unknown judge 'magface', allowed: arcface, "),
        (
            "benchmark",
            ["--metrics", "identity_adaface"],
            "needs the judge adaface, which is not",
        ),
        (
            "benchmark",
            ["--methods", "flux2_klein"],
            "allowed: weights with flux2_klein: a folder",
        ),
        ("dreambooth", ["--output", "o", "--prior-weight", "-1"], "prior_weight is -1.0"),
        ("dreambooth", ["--output", "o", "--identities", "no.csv"], "no.csv does not exist"),
        (
            "dreambooth",
            ["--output", "o", "--set", "controlnet=poses"],
            "controlnet is 'poses', allowed in a training: none, for it draws without",
        ),
        (
            "dreambooth",
            ["--output", "o", "--set", "details=true"],
            "details is True, allowed in a training: none",
        ),
        ("compare", ["one"], "got 1 runs, allowed: 2 or more, or --log RUN_DIR"),
        ("compare", ["one", "two"], "/one does not exist"),
        ("compare", ["runs:/1", "two"], "allowed with it: --tracking-uri"),
        ("compare", ["--log", "nowhere"], "nowhere is no run folder"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(infinite_id, name, options, words):
    done = infinite_id(name, *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


RUN = {"methods": ["timed"], "metrics": ["timed"], "set_pictures": 0, "limit": 2}
WANTED = {"method": "timed", "metric": "timed", "at_least": 1e9}


def benchmark(capsys, monkeypatch, folder: Path, *options: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `benchmark OPTIONS` with the scenarios of a folder."""
    monkeypatch.setattr(scenarios, "CONFIGS", folder)
    app = typer.Typer()
    app.command()(command.benchmark)
    with pytest.raises(SystemExit) as left:
        app([*options, "--address", "local", "--tracking-uri", "none"])
    return left.value.code, *capsys.readouterr()


def write_scenarios(folder: Path, **runs: dict) -> Path:
    folder.mkdir()
    for name, run in runs.items():
        values = {"scenario": {"title": name, "people": 1}, "run": {**RUN, **run}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.ray
def test_all_goes_on_after_one_that_fails_and_says_so_in_its_exit_code(
    shared_ray, capsys, monkeypatch, tmp_path
):
    folder = write_scenarios(
        tmp_path / "configs",
        broken={"identities": str(tmp_path / "nobody")},
        good={},
        poor={"requirements": [WANTED]},
    )
    # What it has not got is left out, and fails nobody.
    for name, lacks in (("posed", {"poses": [[10, 0, 0]]}), ("scened", {"scenes": 99})):
        values = {"scenario": {"title": name, **lacks}, "run": RUN}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    options = ["--scenario", "all", "--output", f"file://{tmp_path}/all"]
    code, said, _ = benchmark(capsys, monkeypatch, folder, *options)
    assert code == 1, said
    assert f"failed: broken: identities {tmp_path}/nobody does not exist" in said
    assert "failed: poor: a requirement is not met" in said
    assert said.count("failed: ") == 2
    flat = " ".join(said.split())
    assert "left out: posed: controlnet is None, allowed with a scenario of poses: --set" in flat
    assert "left out: scened: scenario scened has 7 people, allowed: more than 99 whose" in flat
    page = (tmp_path / "all" / "report.html").read_text()
    assert 'href="good/report/report.html"' in page
    assert 'href="poor/report/report.html"' in page
    pictures = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "all").rglob("images/part-*.parquet")
    }
    assert len(pictures) == 2
    # A resume goes on with what is there and begins the rest, at any address.
    (folder / "broken.yaml").unlink()
    write_scenarios(tmp_path / "more", late={})
    (tmp_path / "more" / "late.yaml").rename(folder / "late.yaml")
    code, said, _ = benchmark(capsys, monkeypatch, folder, *options, "--resume")
    assert code == 1, said
    assert said.count("failed: ") == 1
    assert {path: path.stat().st_mtime_ns for path in pictures} == pictures
    assert list((tmp_path / "all" / "late" / "images").glob("part-*.parquet"))


@pytest.mark.ray
def test_all_that_fail_are_one_sentence_with_exit_code_1(shared_ray, capsys, monkeypatch, tmp_path):
    folder = write_scenarios(tmp_path / "configs", one={}, two={})
    options = ["--identities", str(tmp_path / "none"), "--output", str(tmp_path / "all")]
    code, _, said = benchmark(capsys, monkeypatch, folder, "--scenario", "all", *options)
    assert code == 1
    assert said.startswith("failed: every scenario failed, the first with: identities ")
    assert said.count("\n") == 1


def test_poses_need_a_controlnet(capsys, monkeypatch, tmp_path):
    options = ["--scenario", "pose_following", "--output", str(tmp_path / "run")]
    code, _, said = benchmark(capsys, monkeypatch, scenarios.CONFIGS, *options)
    assert code == 2
    assert "controlnet is None, allowed with a scenario of poses: --set controlnet=ADDR" in said
    assert said.count("\n") == 1


def test_loras_are_not_fitted_beside_an_output_on_no_disk(capsys, monkeypatch, tmp_path):
    options = ["--scenario", "dreambooth_prior", "--output", "memory://run"]
    code, _, said = benchmark(capsys, monkeypatch, scenarios.CONFIGS, *options)
    assert code == 2
    assert "output of scenario dreambooth_prior is 'memory://run', allowed: a folder on a" in said
    assert said.count("\n") == 1
