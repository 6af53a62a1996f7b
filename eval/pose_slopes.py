"""Is the pose copied, is it followed: the slope of a picture's pose on the reference's or on the
one that was asked for.

A slope of 0: the picture's head is turned whichever way the other one is. Of 1: it turns with it
degree by degree. The slope is the least-squares one over a method's pictures; its interval is the
jackknife's over people, who are left out one by one with all their pictures.

The reference's pose is measured too, and its error pulls the slope on it towards 0 (errors in
variables): by a ninth where the measured poses spread by three times the error. The pose of
keypoints is known, so the slope on it is not pulled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from eval.pose import head_pose
from eval.run_data import RunData
from eval.spread import interval, one_way
from eval.stats import Summary, summarise

__all__ = ["AXES", "PoseSlopes", "along_yaw", "pose_slopes", "slope"]

AXES = ("yaw", "pitch", "roll")
_LEAST_PEOPLE = 4
# Degrees (standard deviation). Poses of references that differ by less than about three times the
# landmarks' own error would tell of that error; those of keypoints have none.
_MEASURED_SPREAD, _ASKED_SPREAD = 10.0, 3.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PoseSlopes:
    """One method.

    Attributes:
        method: of METHODS.
        copied: axis -> slope on the reference's pose.
        followed: axis -> slope on the pose of the keypoints that were asked for.
    """

    method: str
    copied: Mapping[str, Summary]
    followed: Mapping[str, Summary]


def slope(
    values: Floats,
    on: Floats,
    people: Sequence[str] | NDArray[np.str_],
    *,
    pictures: ArrayLike | None = None,
    least_spread: float = _MEASURED_SPREAD,
) -> Summary:
    """Least-squares slope of `values` on `on`; `mean` is the slope.

    A value counts as the angle that is nearest to the one it is compared with: 179 degrees on -179
    is -181.

    Args:
        values, on: (N,) degrees; pairs with NaN do not count.
        people: (N,) the person in each picture.
        pictures: (N,) equal where two values are of one and the same picture; None: all distinct.
        least_spread: of `on`, a standard deviation in degrees.

    Returns:
        NaN where `on` spreads by less; no interval with fewer than 4 people, or with fewer distinct
        pictures than people.

    Raises:
        ValueError: lengths differ.
    """
    if not len(values) == len(on) == len(people):
        raise ValueError(
            f"got {len(values)} values on {len(on)} of {len(people)} people, allowed: equally many"
        )
    known = np.isfinite(values) & np.isfinite(on)
    y, x, who = values[known], on[known], np.asarray(people)[known]
    y = x + ((y - x + 180) % 360 - 180)
    names, number = np.unique(who, return_inverse=True)
    nan, count = int((~known).sum()), len(names)
    distinct = len(y) if pictures is None else len(np.unique(np.asarray(pictures)[known]))
    bare = (math.nan, math.nan, math.nan, 0.0, 0.0, "")
    if len(y) < 2 or x.std() < least_spread:
        return Summary(math.nan, distinct, count, *bare, nan=nan)
    found = _fitted(y, x)
    left_out = [_fitted(y[number != one], x[number != one]) for one in range(count)]
    # People who share their pictures are no sample of pictures.
    if count < _LEAST_PEOPLE or distinct < count or not np.isfinite(left_out).all():
        return Summary(found, distinct, count, *bare, nan=nan)
    pseudo = count * found - (count - 1) * np.array(left_out)
    # Pseudo-values of a slope are skewed by whoever lies far out, which is no skew of the slope.
    error, df, _ = one_way(pseudo - pseudo.mean(), np.full(count, 1 / count))
    low, high = interval(found, error, df, 0.0)
    return Summary(found, distinct, count, low, high, error, df, 0.0, "people", nan=nan)


def _fitted(y: Floats, x: Floats) -> float:
    if len(x) < 2 or x.std() == 0:
        return math.nan
    apart = x - x.mean()
    return float(apart @ (y - y.mean()) / (apart @ apart))


def pose_slopes(data: RunData) -> list[PoseSlopes]:
    """Of each method of a run; empty where the run has no column of poses."""
    if "yaw" not in data.scores:
        return []
    asked = _asked(data)
    people, pictures = data.samples["person"].astype(str), data.samples["picture"]
    found = []
    for method in data.names("method"):
        own = (data.samples["method"] == method) & data.samples["has_scores"]
        copied = {
            axis: slope(
                data.scores[axis][own],
                data.scores[f"reference_{axis}"][own],
                people[own],
                pictures=pictures[own],
            )
            for axis in AXES
            if {axis, f"reference_{axis}"} <= set(data.scores)
        }
        followed = {
            axis: slope(
                data.scores[axis][own],
                asked[own, number],
                people[own],
                pictures=pictures[own],
                least_spread=_ASKED_SPREAD,
            )
            for number, axis in enumerate(AXES)
            if axis in data.scores and np.isfinite(asked[own, number]).any()
        }
        found.append(PoseSlopes(method, copied, followed))
    return found


def along_yaw(data: RunData, metric: str) -> list[dict[str, Any]]:
    """Mean of a metric of each method along the yaw that was asked for, of level heads alone.

    Returns:
        Points of `eval.reports.figures.curve`; empty where fewer than two yaws were asked for.
    """
    asked = _asked(data).round(1)
    level = (np.abs(asked[:, 1:]) < 1).all(axis=1) & data.samples["has_scores"]
    yaws = sorted(set(asked[level, 0].tolist()))
    if len(yaws) < 2 or metric not in data.scores:
        return []
    points = []
    for method in data.names("method"):
        for yaw in yaws:
            own = level & (asked[:, 0] == yaw) & (data.samples["method"] == method)
            values, people = data.scores[metric][own], data.samples["person"][own].astype(str)
            found = summarise(values, people, pictures=data.samples["picture"][own])
            known = np.isfinite(values)
            points.append(
                {
                    "method": method,
                    "role": "the person",
                    "x": yaw,
                    "mean": found.mean if found.n else None,
                    "low": None if math.isnan(found.low) else found.low,
                    "high": None if math.isnan(found.high) else found.high,
                    "identities": found.identities,
                    "by_person": {
                        name: float(values[known & (people == name)].mean())
                        for name in np.unique(people[known])
                    },
                }
            )
    return points


def _asked(data: RunData) -> Floats:
    """(N, 3) poses of the keypoints that the pictures were held to; NaN where there are none."""
    poses = np.full((len(data), 3), np.nan)
    requests = data.folder.dataset("requests")
    if requests is None or "control_keypoints" not in requests.schema.names:
        return poses
    rows = requests.to_table(
        columns=["sample_id", "control_keypoints", "width", "height"],
        filter=pc.field("control_keypoints").is_valid(),
    ).to_pylist()
    of = {
        row["sample_id"]: np.reshape(row["control_keypoints"], (5, 2))
        * (row["width"], row["height"])
        for row in rows
    }
    for number, sample in enumerate(data.samples["sample_id"].tolist()):
        if sample in of:
            poses[number] = head_pose(of[sample])
    return poses
