"""DreamBooth LoRAs: `python jobs/dreambooth.py --output FOLDER`, also by `ray job submit`."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs.comparison import dreambooth  # noqa: E402

__all__ = ["dreambooth"]

if __name__ == "__main__":
    typer.run(dreambooth)
