"""The training configuration: files, overrides, and messages that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig, load_training_config

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def test_the_sdxl_recipe_is_the_papers():
    config = load_training_config(str(CONFIGS / "train_sdxl.yaml"))
    assert (config.workers, config.batch_size, config.steps) == (16, 4, 1_000_000)
    assert (config.learning_rate, config.weight_decay) == (1e-4, 0.01)
    assert not config.text_active


def test_overrides_win_over_the_file():
    config = load_training_config(str(CONFIGS / "train_pocket.yaml"), steps=7, output=None)
    assert config.steps == 7
    assert config.output == "runs/train_pocket"


@pytest.mark.parametrize(
    ("every", "checkpoints", "drawn"),
    [
        (500, 100, [500, 1000, 1100]),
        (150, 100, [200, 300, 500, 600, 800, 900, 1100]),
        (5000, 100, [1100]),
        (0, 100, []),
    ],
)
def test_samples_are_drawn_at_the_first_checkpoint_after_so_many_steps(every, checkpoints, drawn):
    config = TrainingConfig(data="x", steps=1100, sample_steps=every)
    steps = range(checkpoints, 1101, checkpoints)
    assert [now for now in steps if config.samples_due(now - checkpoints, now)] == drawn


def test_more_steps_do_not_make_a_checkpoint_foreign():
    short, long = TrainingConfig(data="x", steps=5), TrainingConfig(data="x", steps=50)
    assert short.signature() == long.signature()
    assert short.signature() != TrainingConfig(data="x", text_active=True).signature()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"rate": 1}, "unknown key 'rate', allowed: preset, base"),
        ({"preset": "large"}, "^the command line: preset is 'large': allowed: pocket, sdxl"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"controlnet": "poses"}, "controlnet is 'poses': allowed in a training: none, for it dra"),
        ({"controlnet_revision": "v1"}, "controlnet_revision is 'v1': allowed in a training: none"),
        ({"details": True}, "details is True: allowed in a training: none"),
    ],
)
def test_wrong_values_are_named(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_training_config(None, data="photos", **values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7: 8", "keys must be text"),
        ("[1]", "is a list, allowed: a mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_training_config(str(path), data="photos")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"nowhere\.yaml does not exist"):
        load_training_config("nowhere.yaml")
