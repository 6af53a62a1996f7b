"""Differences between runs: `python jobs/compare.py A B [C ...]`, or `--log RUN_DIR`."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs.comparison import compare  # noqa: E402

__all__ = ["compare"]

if __name__ == "__main__":
    typer.run(compare)
