"""`--layout` tells a run who is in a photo of a folder, as it tells `manifest build`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.plan.inputs import load_manifests
from pipelines.settings import load_config


@pytest.fixture
def photos(tmp_path):
    for name in ("site/2020/ann/1.jpg", "site/bo/1.jpg", "site/bo/2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("layout", "people"),
    [("person", ["site"]), ("nested", ["ann", "bo"]), ("file", 3)],
)
def test_a_run_finds_the_people_of_the_layout(photos, layout, people):
    config = load_config(identities=str(photos), layout=layout)
    found = load_manifests(config).identities["identity_id"].to_pylist()
    assert found == people or len(found) == people


def test_an_unknown_layout_is_refused(photos):
    with pytest.raises(ValueError, match="layout is 'flat': allowed: person, nested, file"):
        load_config(identities=str(photos), layout="flat")


def test_the_option_reaches_the_plan(photos):
    rows = {}
    for layout in ("person", "nested"):
        done = CliRunner().invoke(
            app,
            ["plan", "--identities", str(photos), "--layout", layout, "--seeds", "0", "--json",
             "--images-per-second", "1", "--image-kb", "1"],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        rows[layout] = json.loads(done.output[done.output.index("{") :])
    assert rows["nested"]["people"] == 2 * rows["person"]["people"]
