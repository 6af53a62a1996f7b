"""The service in one process: `python jobs/serve.py [options]`."""

from __future__ import annotations

from pipelines.session import quiet

quiet()

import typer  # noqa: E402

from jobs.serving import serve  # noqa: E402

__all__ = ["serve"]

if __name__ == "__main__":
    typer.run(serve)
