"""What there is to choose from: `infinite-id methods`, `metrics`, `styles`."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.console import show_table, user_errors

__all__ = ["methods", "metrics", "styles"]


def methods() -> None:
    """List the methods: what `--methods` and a configuration's `methods:` take."""
    from infinite_id.methods import METHODS

    rows = [
        {
            "method": name,
            "what it is": spec.title,
            "weights it takes": ", ".join(spec.weights) or "-",
        }
        for name, spec in METHODS.items()
    ]
    show_table("Methods", ["method", "what it is", "weights it takes"], rows, folds=1)


def metrics() -> None:
    """List the metrics: what `--metrics` and a configuration's `metrics:` take."""
    from eval.judges.given import JUDGES
    from eval.metrics import DEFAULT_METRICS, METRICS

    directions = {True: "higher", False: "lower", None: "neither"}
    rows = [
        {
            "metric": name,
            "what it is": metric.title,
            "better": directions[metric.higher_is_better],
            "unit": metric.unit,
            "by default": "yes" if name in DEFAULT_METRICS else "no",
            "judge to give": ", ".join(need for need in metric.needs if need in JUDGES) or "-",
        }
        for name, metric in METRICS.items()
    ]
    columns = ["metric", "what it is", "better", "unit", "by default", "judge to give"]
    show_table("Metrics", columns, rows, folds=1)


@user_errors()
def styles(
    manifest: Annotated[
        str | None,
        typer.Option(help="A styles manifest; default: the shipped one."),
    ] = None,
) -> None:
    """List styles with the words that they add to a prompt."""
    from pipelines.tables.manifest import default_styles, read_manifest

    table = default_styles() if manifest is None else read_manifest("styles", manifest)
    rows = [
        {
            "style": row["style"],
            "adds to the prompt": row["suffix"] or "-",
            "keeps out": row["negative_prompt"] or "-",
        }
        for row in table.to_pylist()
    ]
    show_table("Styles", ["style", "adds to the prompt", "keeps out"], rows, folds=2)
