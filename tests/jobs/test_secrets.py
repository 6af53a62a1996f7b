"""What gives access is shown nowhere: not in run.json, a message, a command line or MLflow."""

from __future__ import annotations

import sys

import pytest

from jobs.options import command_line, storage_options
from pipelines.settings import load_config
from pipelines.training.config import load_training_config

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "config",
    [
        load_config(
            None,
            storage_options={"s3": {"key": SECRET, "secret": SECRET}},
            identities=f"https://me:{SECRET}@host/people.csv?sig={SECRET}",
            weights={"photomaker": f"sftp://me:{SECRET}@host/w"},
            tracking_uri=f"http://me:{SECRET}@host",
            vlm_key=SECRET,
        ),
        load_training_config(
            None,
            data=f"sftp://me:{SECRET}@host/d",
            storage_options={"s3": {"secret": SECRET}},
            tracking_uri=f"postgresql://me:{SECRET}@host/db",
        ),
    ],
)
def test_a_configuration_can_be_shown(config):
    assert SECRET not in repr(config.record())
    assert SECRET not in repr(config.storage_options)
    assert SECRET not in config.model_dump_json(include={"storage_options"})
    assert "me:***@host" in repr(config.record())
    assert config.storage_options["s3"]["secret"] == SECRET


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("storage_options", {"secret": SECRET}),
        ("storage_options", {"s3": SECRET}),
        ("storage_options", SECRET),
        ("batch_size", f"http://me:{SECRET}@host"),
        ("vlm_key", [SECRET]),
    ],
)
def test_a_message_about_it_has_no_secret(key, value):
    with pytest.raises(ValueError, match=r"allowed|valid") as refused:
        load_config(None, **{key: value})
    assert SECRET not in str(refused.value)


def test_the_recorded_command_has_no_secret(monkeypatch):
    options = f'{{"s3": {{"secret": "{SECRET}"}}}}'
    words = ["infinite-id", "benchmark", "--storage-options", options]
    words += [f"--storage-options={options}", "--tracking-uri", f"http://me:{SECRET}@host"]
    words += ["--set", f"vlm_key={SECRET}", f"--set=vlm_key={SECRET}"]
    monkeypatch.setattr(sys, "argv", words)
    said = command_line()
    assert SECRET not in said
    assert said.startswith("infinite-id benchmark --storage-options '***' ")
    assert "http://me:***@host" in said


def test_options_come_as_json_or_from_a_file(tmp_path):
    file = tmp_path / "options.json"
    file.write_text('{"s3": {"key": "k"}}')
    assert dict(storage_options(str(file)) or {}) == {"s3": {"key": "k"}}
    assert dict(storage_options('{"s3": {"key": "k"}}') or {}) == {"s3": {"key": "k"}}
    assert storage_options(None) is None
    for text in (f"{{'s3': '{SECRET}'}}", f'["{SECRET}"]', f'{{"s3": "{SECRET}"}}'):
        with pytest.raises(ValueError, match=r"allowed: ") as refused:
            storage_options(text)
        assert SECRET not in str(refused.value)
    with pytest.raises(ValueError, match=r"none.json cannot be read .*, allowed: JSON, or a file"):
        storage_options(str(tmp_path / "none.json"))
