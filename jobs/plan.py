"""What a run will take, before renting anything: `python jobs/plan.py --gpus 8 ...`."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs.planning import plan  # noqa: E402

__all__ = ["plan"]

if __name__ == "__main__":
    typer.run(plan)
