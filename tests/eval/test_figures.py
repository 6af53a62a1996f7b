"""What a figure says in print: its axes, bands, factors, and ten methods apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation

from eval.metric_info import MetricInfo
from eval.reports.figures import Level, axis_title, curve, scatter
from eval.reports.labels import KEY
from eval.reports.print_style import DARK, LIGHT, render
from eval.reports.sheets import contact_sheet
from eval.reports.tables import Row
from eval.stats import Summary

METHODS = [
    "infinite_id", "infinite_id_no_adain", "infinite_id_adain", "infinite_id_cross_adain_mean",
    "infinite_id_no_mixed", "infinite_id_mutual", "ip_adapter", "ip_adapter_face", "photomaker",
    "dreambooth",
]  # fmt: skip
TEXT = MetricInfo("text_score", "Text", True, (-1, 1), "cosine", "OpenCLIP", "r")
FACE = MetricInfo("identity_facenet", "Identity (FaceNet)", True, (-1, 1), "cosine", "FaceNet", "r")


def _row(method, x, y):
    def cell(mean):
        return Summary(mean, 80, 20, mean - 0.02, mean + 0.02, 0.01, 19.0, 0.0, "people", 0)

    cells = {"text_score": cell(x), "identity_facenet": cell(y)}
    return Row(method, None, None, 80, 80, 80, 80, 0, cells, {})


@pytest.fixture(scope="module")
def ten():
    rng = np.random.default_rng(0)
    rows = [_row(name, *rng.uniform(0.2, 0.5, 2)) for name in METHODS]
    return scatter(rows, TEXT, FACE, levels=[Level("ceiling: own photos", 0.6, 0.55, 0.65)])


def test_axes_say_network_unit_and_range(ten):
    (axes,) = ten.axes
    assert axes.get_xlabel() == "Text ↑\nOpenCLIP, cosine, −1\u00a0to\u00a01"
    assert axes.get_ylabel() == "Identity (FaceNet) ↑\nFaceNet, cosine, −1\u00a0to\u00a01"
    assert axis_title("Faces", "", "faces", (0, float("inf"))) == "Faces\nfaces, 0\u00a0to\u00a0∞"


def test_a_figure_is_a_column_wide_in_seven_points(ten):
    assert ten.get_size_inches()[0] == pytest.approx(3.3)
    assert ten.axes[0].xaxis.label.get_size() == 7


def test_a_figure_is_laid_out_once_for_all_its_files(monkeypatch):
    """It took half of the time of a report, and moved what was already placed."""
    real, seen = ConstrainedLayoutEngine.execute, []

    def execute(engine, figure):
        seen.append(figure)
        return real(engine, figure)

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", execute)
    figure = scatter([_row("a", 0.2, 0.3), _row("b", 0.3, 0.4)], TEXT, FACE)
    before = figure.axes[0].get_position().bounds
    files = [render(figure, kind) for kind in ("png", "svg", "pdf")]
    assert len(seen) == 1
    assert figure.axes[0].get_position().bounds == before
    assert [file[:4] for file in files] == [b"\x89PNG", b"<?xm", b"%PDF"]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_ten_methods_differ_in_colour_or_marker(theme):
    rows = [_row(name, 0.2 + 0.03 * n, 0.3) for n, name in enumerate(METHODS)]
    lines = [bars.lines[0] for bars in scatter(rows, TEXT, FACE, theme).axes[0].containers]
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == 10
    assert len({marker for _, marker in looks}) == 10  # in a grey print too


def test_ten_methods_are_named_beside_the_axes_in_the_order_of_their_marks(ten):
    (axes,) = ten.axes
    ten.draw_without_rendering()
    named = {t.get_text(): t.get_window_extent() for t in axes.texts if t.get_text() in METHODS}
    drawn = zip(METHODS, axes.containers, strict=True)
    heights = {name: bars.lines[0].get_ydata()[0] for name, bars in drawn}
    order = sorted(METHODS, key=lambda name: heights[name])
    boxes = [named[name] for name in order]
    assert all(one.y1 <= other.y0 + 0.5 for one, other in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) > axes.get_window_extent().x1
    assert max(box.x1 for box in boxes) <= ten.bbox.x1
    keys = {line.get_color() + line.get_marker() for line in axes.lines if line.get_gid() == KEY}
    marks = {bars.lines[0].get_color() + bars.lines[0].get_marker() for bars in axes.containers}
    assert keys == marks


def test_six_methods_are_named_beside_their_marks_and_no_name_hides_another():
    rng = np.random.default_rng(0)
    rows = [_row(name, *rng.uniform(0.2, 0.5, 2)) for name in METHODS[:6]]
    six = scatter(rows, TEXT, FACE, levels=[Level("ceiling: own photos", 0.6, 0.55, 0.65)])
    (axes,) = six.axes
    six.draw_without_rendering()
    texts = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]
    assert {text.get_text() for text in texts} == {*METHODS[:6], "ceiling: own photos"}
    boxes = [text.get_window_extent() for text in texts]
    frame = axes.get_window_extent().padded(4)
    for box in boxes:
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
    hidden = [
        (a.get_text(), b.get_text())
        for (a, one), (b, other) in itertools.combinations(zip(texts, boxes, strict=True), 2)
        if one.overlaps(other)
    ]
    assert hidden == []


def _points(people, xs=(1, 2, 4, 8)):
    return [
        {
            "method": "infinite_id", "role": "the original", "x": x, "mean": 0.5 / x, "low": 0.1,
            "high": 0.6, "n": people, "identities": people,
            "by_person": {str(n): 0.1 * n for n in range(people)},
        }
        for x in xs
    ]  # fmt: skip


def test_names_of_ten_lines_stand_in_their_order_right_of_the_axes():
    """Names of lines that end close together hid lines and crossed each other."""
    points = [
        one | {"method": name, "mean": 0.3 + 0.004 * n + 0.1 / one["x"]}
        for n, name in enumerate(METHODS)
        for one in _points(6)
    ]
    figure = curve(points, "factor", "y", log2=True)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    named = {text.get_text(): text.get_window_extent() for text in axes.texts if text.get_text()}
    assert list(named) == METHODS
    boxes = [named[name] for name in METHODS]
    assert all(one.y1 <= other.y0 + 0.5 for one, other in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) > axes.get_window_extent().x1
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    keys = [line for line in axes.lines if line.get_gid() == KEY]
    assert len({(line.get_color(), line.get_marker()) for line in keys}) == 10


@pytest.mark.parametrize(("people", "bands", "lines"), [(5, 0, 6), (6, 1, 1)])
def test_a_band_needs_six_people_and_fewer_are_drawn_one_by_one(people, bands, lines):
    (axes,) = curve(_points(people), "x", "y").axes
    assert sum(isinstance(one, PolyCollection) for one in axes.collections) == bands
    assert sum(line.get_gid() != KEY for line in axes.lines) == lines


def test_factors_of_two_are_equally_far_apart():
    (axes,) = curve(_points(6), "factor", "y", log2=True).axes
    places = axes.transData.transform([(x, 0.2) for x in (1, 2, 4, 8)])[:, 0]
    assert np.diff(places) == pytest.approx([places[1] - places[0]] * 3)
    assert axes.get_xticks().tolist() == [1, 2, 4, 8]
    assert [axes.xaxis.get_major_formatter()(x) for x in (1, 8)] == ["1", "8"]


@pytest.mark.parametrize(("low", "spans"), [(None, 0), (0.02, 1)])
def test_bounds_have_a_band_where_they_have_an_interval(low, spans):
    level = Level("floor: other people", 0.1, low, None if low is None else 0.2)
    (axes,) = curve(_points(5), "x", "y", levels=[level]).axes
    assert len(axes.patches) == spans
    assert any(line.get_ydata()[0] == 0.1 for line in axes.lines)


def test_a_grid_of_ten_methods_is_a_page_wide():
    wide = contact_sheet(METHODS, [("ada", None, [None] * 10)])
    assert 6.5 < wide.get_size_inches()[0] <= 6.9
    assert [axes.get_title().replace("\n", "") for axes in wide.axes] == ["reference", *METHODS]
    assert contact_sheet(METHODS[:3], [("ada", None, [None] * 3)]).get_size_inches()[0] <= 3.5
