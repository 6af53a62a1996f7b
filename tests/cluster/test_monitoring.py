"""Dashboard, alerts and PodMonitor speak of the metrics that the pipeline exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines.run.counters import METRICS
from pipelines.serving.measures import METRICS as SERVICE
from pipelines.serving.measures import PREFIX

CLUSTER = Path(__file__).parents[2] / "cluster"
# Prometheus shows a histogram as cumulative buckets with their upper limit in `le`.
LABELS = {
    f"ray_{name}_bucket" if kind == "Histogram" else f"ray_{name}": {
        *labels,
        *(["le"] if kind == "Histogram" else []),
    }
    for name, (kind, _, labels) in (
        METRICS | {PREFIX + name: about[:3] for name, about in SERVICE.items()}
    ).items()
}
DASHBOARD = json.loads((CLUSTER / "monitoring/grafana.json").read_text())
(RULES,) = yaml.safe_load((CLUSTER / "monitoring/alerts.yaml").read_text())["spec"]["groups"]
EXPRESSIONS = [t["expr"] for p in DASHBOARD["panels"] for t in p["targets"]] + [
    rule["expr"] for rule in RULES["rules"]
]
# A run's metrics come by Ray's exporter; the service's by that, or by its own /metrics.
SERVICE_NAME = re.compile(r'__name__=~"\(ray_\)\?(\w+)"')


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", SERVICE_NAME.sub(r"ray_\1", expression)))


def labels_of(expression: str) -> set[str]:
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    matched = re.findall(r"(\w+)(?:=|!=|=~|!~)\"", SERVICE_NAME.sub("", expression))
    return {label.strip() for group in grouped for label in group.split(",")} | set(matched)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_use_exported_metrics_and_labels(expression: str) -> None:
    metrics = metrics_of(expression)
    assert metrics
    assert metrics <= LABELS.keys()
    assert labels_of(expression) <= set.union(*(LABELS[m] for m in metrics))


def test_every_exported_metric_has_a_panel() -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert set.union(*(metrics_of(one) for one in expressions)) == LABELS.keys()


def test_legends_and_sentences_use_labels_that_are_left() -> None:
    """A label that an expression has summed over would stand there as nothing."""
    shown = [(t["expr"], t["legendFormat"]) for p in DASHBOARD["panels"] for t in p["targets"]]
    shown += [(rule["expr"], rule["annotations"]["summary"]) for rule in RULES["rules"]]
    for expression, text in shown:
        asked = set(re.findall(r"\{\{ *(?:\$labels\.)?(\w+) *\}\}", text))
        (kept,) = re.findall(r"\bby \(([^)]*)\)", expression) or [""]
        assert asked <= {label.strip() for label in kept.split(",")}, (expression, text)


def test_panels_have_own_ids_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    cells = [
        (x, y)
        for g in (p["gridPos"] for p in panels)
        for x in range(g["x"], g["x"] + g["w"])
        for y in range(g["y"], g["y"] + g["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_pod_monitor_scrapes_the_port_that_ray_exports_on() -> None:
    monitor = yaml.safe_load((CLUSTER / "monitoring/podmonitor.yaml").read_text())
    cluster = yaml.safe_load((CLUSTER / "kuberay/raycluster.yaml").read_text())["spec"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    exported = [
        str(port["containerPort"]) == g["rayStartParams"]["metrics-export-port"]
        for g in groups
        for port in g["template"]["spec"]["containers"][0]["ports"]
        if port["name"] == endpoint["port"]
    ]
    assert exported == [True] * len(groups)
