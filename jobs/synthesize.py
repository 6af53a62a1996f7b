"""Data sets of accepted pictures: `python jobs/synthesize.py [options]`, also by Ray jobs."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs.synthesis import synthesize  # noqa: E402

__all__ = ["synthesize"]

if __name__ == "__main__":
    typer.run(synthesize)
