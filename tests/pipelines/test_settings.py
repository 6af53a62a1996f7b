"""Settings are typed; a wrong key or value is one sentence."""

from __future__ import annotations

import pytest

from pipelines.settings import load_config


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("preset: pocket\nseeds: '0:2'\nbatch_size: 4\n")
    config = load_config(str(path), seeds="5", limit=None)
    assert (config.seeds, config.batch_size, config.limit) == ("5", 4, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes: '0'", "unknown key 'sedes', allowed: preset"),
        ("resources: {gpu: 1}", "unknown key 'resources.gpu', allowed: face_actors"),
        ("preset: huge", "preset is 'huge': allowed: pocket, sdxl"),
        ("methods: [magic]", "unknown method 'magic', allowed: "),
        ("methods: [infinite_id, infinite_id]", "a method stands twice"),
        ("batch_size: 0", "batch_size is 0: input should be greater than or equal to 1"),
        ("guidance_scale: .nan", "guidance_scale is nan"),
        ("seeds: x", "seeds is 'x'"),
        ("image_format: gif", "image_format is 'gif': allowed: png, webp, jpeg"),
        ("[1]", "is a list, allowed: a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_faults_are_one_sentence(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"config file none\.yaml does not exist"):
        load_config("none.yaml")
