"""The main job: `python jobs/benchmark.py [options]`, also by `ray job submit`."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs.commands import benchmark  # noqa: E402

__all__ = ["benchmark"]

if __name__ == "__main__":
    typer.run(benchmark)
