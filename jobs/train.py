"""Training: `python jobs/train.py --config FILE [options]`, also by `ray job submit`."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs.training import train  # noqa: E402

__all__ = ["train"]

if __name__ == "__main__":
    typer.run(train)
