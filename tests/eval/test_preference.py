"""Preference columns: refused in a sentence where a package or weights are missing."""

from __future__ import annotations

import sys

import pytest

from eval.judges.given import GivenJudges
from eval.judges.preference import AestheticPredictor, HPSv2
from eval.metrics import metric_names, needs_of


@pytest.mark.parametrize("judge", [AestheticPredictor, HPSv2])
def test_missing_weights_are_refused(judge, tmp_path):
    with pytest.raises((ValueError, ImportError), match=r"which is no file, allowed: its weights|"):
        judge(str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    ("name", "package"), [("aesthetic", "aesthetic_predictor_v2_5"), ("hpsv2", "open_clip")]
)
def test_a_missing_package_is_refused_before_any_picture(name, package, tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    given = GivenJudges({name: str(weights)})
    with pytest.raises(ValueError, match=f"judge {name} needs the package {package}"):
        given.check({name: (name,)})


@pytest.mark.parametrize("name", ["aesthetic", "hpsv2"])
def test_a_missing_file_is_refused_before_any_picture(name, tmp_path):
    given = GivenJudges({name: str(tmp_path / "none.pth")})
    with pytest.raises(ValueError, match=f"judge {name} is .* which is no file, allowed: its wei"):
        given.check(needs_of([name], given.addresses))


def test_groups_stand_for_their_columns():
    poses = metric_names(["default", "pose"])[-8:]
    assert poses[:5] == ["yaw", "pitch", "roll", "reference_yaw", "reference_pitch"]
    assert poses[5:] == ["pose_yaw", "pose_pitch", "pose_roll"]
    assert metric_names(None, ["adaface"])[-2:] == ["identity_adaface", "identity_mean"]
    with pytest.raises(ValueError, match="each at most once"):
        metric_names(["pose", "pose_yaw"])


def test_the_weights_of_another_kind_are_no_predictor(tmp_path):
    pytest.importorskip("aesthetic_predictor_v2_5")
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"x")
    with pytest.raises(ValueError, match="does not load"):
        AestheticPredictor(str(weights), encoder=str(tmp_path))
