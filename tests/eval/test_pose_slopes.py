"""Whether a pose is copied or followed: slopes with their intervals, and a report's table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from eval.pose import head_pose, turned_landmarks
from eval.pose_slopes import along_yaw, pose_slopes, slope
from eval.reports.report import write_report
from eval.run_data import read_run
from pipelines.tables import schemas
from tests.eval.runs import METRICS, write_run, write_table

RNG = np.random.default_rng(3)
PEOPLE = np.repeat([f"p{n}" for n in range(12)], 6)
REFERENCE = np.repeat(RNG.uniform(-30, 30, 12), 6)


def test_the_slope_is_that_of_least_squares_with_an_interval_over_people() -> None:
    made = 0.4 * REFERENCE + RNG.normal(0, 4, 72)
    found = slope(made, REFERENCE, PEOPLE)
    expected = stats.linregress(REFERENCE, made)
    assert found.mean == pytest.approx(expected.slope)
    assert found.low < 0.4 < found.high
    assert found.high - found.low < 0.4
    assert (found.n, found.identities, found.nan) == (72, 12, 0)


def test_a_pose_that_leaves_no_trace_and_one_that_is_repeated() -> None:
    free = slope(RNG.normal(5, 10, 72), REFERENCE, PEOPLE)
    assert free.low < 0 < free.high
    copied = slope(REFERENCE + 7, REFERENCE, PEOPLE)
    assert (copied.mean, copied.low, copied.high) == pytest.approx((1, 1, 1))


def test_what_cannot_be_told_is_not() -> None:
    made = np.r_[np.nan, RNG.normal(0, 10, 71)]
    assert slope(made, REFERENCE, PEOPLE).nan == 1
    # All references look one way.
    assert np.isnan(slope(made, np.full(72, 4.0), PEOPLE).mean)
    few = slope(made[:18], REFERENCE[:18], PEOPLE[:18])
    assert np.isfinite(few.mean)
    assert np.isnan(few.low)
    with pytest.raises(ValueError, match="got 72 values on 71 of 72 people, allowed: equally"):
        slope(made, REFERENCE[1:], PEOPLE)


def test_people_who_share_a_picture_are_no_sample_of_pictures() -> None:
    """Pictures of text alone, in five poses, had an interval without width over 12 people."""
    poses = np.array([-30.0, -15, 0, 15, 30])
    asked, who = np.tile(poses, 12), np.repeat([f"p{n}" for n in range(12)], 5)
    shared = slope(0.3 * asked, asked, who, pictures=np.tile(range(5), 12))
    assert shared.mean == pytest.approx(0.3)
    assert (shared.n, shared.identities) == (5, 12)
    assert np.isnan([shared.low, shared.high, shared.error]).all()
    assert np.isfinite(slope(0.3 * asked, asked, who).low)


def test_references_that_differ_by_little_more_than_their_error_tell_nothing() -> None:
    made = REFERENCE / 4 + RNG.normal(0, 4, 72)
    assert REFERENCE.std() / 4 > 3
    assert np.isnan(slope(made, REFERENCE / 4, PEOPLE).mean)
    assert np.isfinite(slope(made, REFERENCE / 4, PEOPLE, least_spread=3.0).mean)


def test_angles_go_round() -> None:
    asked = np.linspace(-170, 178, 72)
    made = (asked + 20 + 180) % 360 - 180
    assert made[-1] < -150
    assert slope(made, asked, PEOPLE).mean == pytest.approx(1)


def test_a_report_says_of_each_method_whether_it_copies_and_follows(tmp_path: Path) -> None:
    """infinite_id turns as it was asked to, ip_adapter repeats the reference's pose."""
    samples = write_run(tmp_path, people=8)
    for one in samples:
        person = int(one["identity_id"][-1])
        asked = -20.0 if one["prompt_id"] == "beach" else 20.0
        reference = 5.0 * person - 15
        own = {"infinite_id": asked, "ip_adapter": reference, "text_only": 0.1 * person}
        one |= {"reference_yaw": reference, "yaw": own[one["method"]]}
        # In a picture of 64 x 64 px, as the requests say.
        points = turned_landmarks(asked, 0, 0) / 300 + 0.5
        one["control_keypoints"] = points.reshape(-1).tolist()
    names = [*METRICS, "yaw", "reference_yaw"]
    write_table(tmp_path, "scores", samples, schemas.scores_schema(names))
    rest = {"negative_prompt": "", "num_inference_steps": 30, "guidance_scale": 5.0}
    rows = [one | rest | {"height": 64, "width": 64} for one in samples]
    write_table(tmp_path, "requests", rows, schemas.REQUESTS)
    assert head_pose(np.reshape(points, (5, 2)) * 64) == pytest.approx([asked, 0, 0], abs=1e-6)

    found = {one.method: one for one in pose_slopes(read_run(tmp_path))}
    expected = {"infinite_id": (0, 1), "ip_adapter": (1, 0), "text_only": (0.02, 0)}
    for method, (copied, followed) in expected.items():
        assert found[method].copied["yaw"].mean == pytest.approx(copied, abs=1e-6)
        assert found[method].followed["yaw"].mean == pytest.approx(followed, abs=1e-6)
        # Keypoints were asked for in each axis; the run has the yaw alone.
        assert set(found[method].copied) == set(found[method].followed) == {"yaw"}

    points = along_yaw(read_run(tmp_path), "yaw")
    assert [point["x"] for point in points] == [-20, 20] * 3
    assert [point["mean"] for point in points[:2]] == pytest.approx([-20, 20])
    assert points[2]["by_person"]["person_7"] == pytest.approx(20)
    assert points[2]["mean"] == pytest.approx(2.5)
    assert points[2]["low"] < 2.5 < points[2]["high"]

    data = read_run(tmp_path)
    own = data.samples["method"] == "text_only"
    data.samples["picture"][own] = 0
    shared = along_yaw(data, "yaw")
    assert all(point["low"] is None for point in shared if point["method"] == "text_only")
    assert all(point["low"] is not None for point in shared if point["method"] == "ip_adapter")

    paths = write_report(tmp_path)
    text = Path(paths.markdown).read_text()
    assert "| method | yaw copied | yaw followed |" in text
    assert "| ip_adapter | 1.000 | 0.000 |" in text
    page = Path(paths.html).read_text()
    assert '<h2 id="pose">Pose</h2>' in page
    for name in ("yaw_identity_facenet", "yaw_yaw"):
        assert (tmp_path / f"report/figures/{name}.png").is_file()
    poses = json.loads(Path(paths.json).read_text())["poses"]
    assert poses[1]["copied"]["yaw"]["mean"] == pytest.approx(1)


def test_a_run_without_poses_has_no_such_table(tmp_path: Path) -> None:
    write_run(tmp_path)
    page = Path(write_report(tmp_path).html).read_text()
    assert 'id="pose"' not in page
    assert 'href="#pose"' not in page
