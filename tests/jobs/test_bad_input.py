"""A user's mistake is one sentence and exit code 2, before anything heavy is loaded."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infinite_id.config import PRESETS
from jobs import cli
from pipelines.tables.schemas import PROMPTS


def invoke(capsys, monkeypatch, *arguments: str) -> tuple[int, str]:
    """(exit code, what was said on stderr) of `infinite-id ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["infinite-id", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    return (code if isinstance(code, int) else 0), capsys.readouterr().err


@pytest.fixture
def places(tmp_path):
    """Paths that the cases name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no photo")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.doc").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"program": "another"}')
    (tmp_path / "file").write_text("x")
    (tmp_path / "twice.csv").write_text("identity_id,photos\na,x.png\na,y.png\n")
    (tmp_path / "column.csv").write_text("identity_id,photo\na,x.png\n")
    (tmp_path / "null.csv").write_text("prompt_id,text\na,\n")
    (tmp_path / "rows.csv").write_text("prompt_id,text\n")
    (tmp_path / "gpus.yaml").write_text("resources: {generation_gpus: 8}\n")
    later = PROMPTS.with_metadata({**PROMPTS.metadata, b"infinite_id.version": b"2"})
    rows = [{"prompt_id": "a", "text": "b"}]
    pq.write_table(pa.Table.from_pylist(rows, schema=later), tmp_path / "later.parquet")
    pq.write_table(pa.table({"prompt_id": ["a"]}), tmp_path / "lacks.parquet")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"tmp": str(tmp_path), "dead": f"http://127.0.0.1:{port}"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--identities", "{tmp}/none"], "identities {tmp}/none does not exist, allowed: a folder"),
        (["--identities", "{tmp}/empty"], "photos folder {tmp}/empty holds no photo, allowed"),
        (["--identities", "{tmp}/texts"], "photos folder {tmp}/texts holds no photo, allowed"),
        (["--identities", "{tmp}/twice.csv"], "rows 0 and 1, column 'identity_id': 'a' stands"),
        (["--identities", "{tmp}/column.csv"], "row 0 has the unknown column 'photo', allowed"),
        (["--prompts", "{tmp}/null.csv"], "row 0, column 'text': value is null"),
        (["--prompts", "{tmp}/rows.csv"], "has 0 rows, allowed: 1 or more prompts"),
        (["--prompts", "{tmp}/lacks.parquet"], "lacks the column 'text', present: prompt_id"),
        (["--prompts", "{tmp}/later.parquet"], "version 2, this program reads 'prompts' up to"),
        (["--methods", "magic"], "unknown method 'magic', allowed: "),
        (["--metrics", "beauty"], "unknown metric 'beauty', allowed: "),
        (["--preset", "huge"], "preset is 'huge': allowed: pocket, sdxl"),
        (["--seeds", "3:1"], "seeds is '3:1': seeds are '3:1', allowed: 0:4"),
        (["--config", "{tmp}/none.yaml"], "config file {tmp}/none.yaml does not exist"),
        (["--output", "{tmp}/foreign"], "holds files but no run.json, allowed"),
        (["--output", "{tmp}/other"], "run.json belongs to another program, allowed"),
        (["--output", "{tmp}/file/run"], "cannot write {tmp}/file/run"),
        (["--output", "{tmp}/file"], "output {tmp}/file is a file, allowed: a folder"),
        (["--tracking-uri", "{dead}"], "tracking server {dead} does not answer"),
        (["--tracking-uri", "ftp://x"], "tracking URI is 'ftp://x', allowed: "),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_benchmark(capsys, monkeypatch, places, options, sentence):
    given = [option.format(**places) for option in options]
    if "--output" not in given:
        given += ["--output", f"{places['tmp']}/run"]
    if "--tracking-uri" not in given:
        given += ["--tracking-uri", "none"]
    code, said = invoke(capsys, monkeypatch, "benchmark", *given)
    assert code == 2, said
    assert sentence.format(**places) in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not Path(places["tmp"], "run").exists()


def test_an_unknown_style_or_prompt_is_named(capsys, monkeypatch, places, tmp_path):
    (tmp_path / "c.yaml").write_text("style_names: [baroque]\n")
    code, said = invoke(
        capsys, monkeypatch, "benchmark", "--config", str(tmp_path / "c.yaml"),
        "--output", str(tmp_path / "run"), "--tracking-uri", "none",
    )  # fmt: skip
    assert code == 2
    assert "style is 'baroque', allowed: raw_photo, anime" in said


def test_manifest_build_and_check(capsys, monkeypatch, tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "ada.png")
    output = str(tmp_path / "m")
    code, _ = invoke(
        capsys, monkeypatch, "manifest", "build", "--photos", str(tmp_path / "photos"),
        "--output", output,
    )  # fmt: skip
    assert code == 0
    names = [f"{output}/{kind}.parquet" for kind in ("identities", "prompts", "styles")]
    assert invoke(capsys, monkeypatch, "manifest", "check", *names)[0] == 0
    (tmp_path / "prompts.csv").write_text("prompt_id,text\na,\n")
    code, said = invoke(capsys, monkeypatch, "manifest", "check", str(tmp_path / "prompts.csv"))
    assert code == 2
    assert "prompts.csv, row 0, column 'text': value is null" in said


def test_groups_are_checked_against_the_people_beside_them(capsys, monkeypatch, tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for name in ("ada", "bob"):
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / f"{name}.png")
    groups = tmp_path / "groups.yaml"
    groups.write_text("- {group_id: g, people: [ada, zoe]}")
    photos = str(tmp_path / "photos")
    assert invoke(capsys, monkeypatch, "manifest", "check", str(groups))[0] == 0
    code, said = invoke(capsys, monkeypatch, "manifest", "check", str(groups), photos)
    assert code == 2
    assert "row 0: group 'g' has the person 'zoe', who is no identity of this run" in said
    arguments = ["check", "--identities", photos, "--groups", str(groups)]
    arguments += ["--set", "tracking_uri=none", "--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["infinite-id", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "fault: group 'g' has the person 'zoe', who is no identity of this run" in shown
    code, said = invoke(capsys, monkeypatch, "check", "--for", "train", "--groups", str(groups))
    assert code == 2
    assert "--groups is given with --for train, allowed: with --for benchmark" in said
    groups.write_text("- {group_id: g, people: [ada, bob]}")
    assert invoke(capsys, monkeypatch, "manifest", "check", str(groups), photos)[0] == 0


def test_manifests_hold_no_seeds(capsys, monkeypatch, tmp_path):
    code, said = invoke(
        capsys, monkeypatch, "manifest", "build", "--photos", str(tmp_path), "--output", "m",
        "--seeds", "0:2",
    )  # fmt: skip
    assert code == 2
    assert "No such option" in said


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        ("synthesize", ["--method", "magic"], "method is 'magic': unknown method 'magic', allowed"),
        ("synthesize", ["--per-person", "0"], "per_person is 0: input should be greater"),
        ("synthesize", ["--gates", "beauty=1"], "unknown key 'gates.beauty', allowed: nsfw"),
        ("synthesize", ["--gates", "identity"], "gates are 'identity', allowed: NAME=VALUE"),
        ("synthesize", ["--gates", "identity=["], "gate identity is '[', allowed: a value in YAML"),
        (
            "synthesize",
            ["--watermark", "IFID"],
            "pictures are 64 x 64 px, allowed with",
        ),
        (
            "synthesize",
            ["--references", "{tmp}/none"],
            "identities {tmp}/none does not exist, allowed: a folder",
        ),
        ("plan", [], "the speed and size of pictures are not given, allowed"),
        ("plan", ["--from-run", "{tmp}/empty"], "holds no run: it has no run.json"),
        (
            "plan",
            ["--images-per-second", "0", "--image-kb", "1"],
            "images_per_second is 0, allowed",
        ),
    ],
)
def test_synthesize_and_plan(capsys, monkeypatch, places, options, command, sentence):
    given = [option.format(**places) for option in options]
    if command == "synthesize":
        given += ["--output", f"{places['tmp']}/run"]
    code, said = invoke(capsys, monkeypatch, command, *given)
    assert code == 2, said
    assert sentence.format(**places) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("presets: pocket", "unknown key 'presets', allowed: preset, base"),
        ("[pocket]", "is a list, allowed: a mapping"),
        ("preset: [", "cannot be read"),
        ("preset: huge", "serve.yaml: preset is 'huge': allowed: "),
        ("max_images: 100", "serve.yaml: max_images is 100, allowed: at most max_queue 64"),
        ("max_steps: none", "max_steps is 'none': input should be a valid integer"),
    ],
)
def test_serve(capsys, monkeypatch, tmp_path, text, sentence):
    pytest.importorskip("uvicorn", reason="pip install infinite-id-ray[serve]")
    (tmp_path / "serve.yaml").write_text(text)
    code, said = invoke(capsys, monkeypatch, "serve", "--config", str(tmp_path / "serve.yaml"))
    assert code == 2, said
    assert sentence in said
    assert said.count("\n") == 1


def test_serve_without_its_extra_names_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    code, said = invoke(capsys, monkeypatch, "serve")
    assert code == 2
    assert "serve needs python_multipart, missing here; install the extra: pip install" in said


@pytest.mark.parametrize("command", ["benchmark", "synthesize", "serve"])
def test_the_help_names_every_preset(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "argv", ["infinite-id", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert ", ".join(sorted(PRESETS)) in capsys.readouterr().out


@pytest.mark.ray
def test_more_gpus_than_the_cluster_has_are_refused_at_once(
    shared_ray, capsys, monkeypatch, places
):
    code, said = invoke(
        capsys, monkeypatch, "benchmark", "--config", f"{places['tmp']}/gpus.yaml",
        "--address", "local", "--output", f"{places['tmp']}/run", "--tracking-uri", "none",
    )  # fmt: skip
    assert code == 2, said
    assert "the stages ask for 8 GPUs" in said
    assert "the cluster has 0" in said
    assert not Path(places["tmp"], "run").exists()


@pytest.mark.parametrize("command", ["benchmark", "synthesize"])
def test_a_ray_that_does_not_start_is_one_sentence(capsys, monkeypatch, places, command):
    monkeypatch.setenv("RAY_TMPDIR", f"{places['tmp']}/file")
    code, said = invoke(
        capsys, monkeypatch, command, "--address", "local", "--output", f"{places['tmp']}/run"
    )
    assert code == 1, said
    assert said.startswith("failed: Ray did not start on this machine: ")
    assert said.count("\n") == 1
