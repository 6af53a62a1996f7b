"""The service in one process: `python jobs/serve.py [options]`."""

from __future__ import annotations

from pipelines.run.session import quiet

quiet()

from importlib.util import find_spec
from typing import Annotated

import typer

from jobs import options
from jobs.console import console, user_errors

__all__ = [
    "serve",
]

# Packages of the extra, by what they are imported as.
_EXTRA = ("fastapi", "uvicorn", "httpx", "python_multipart")


@user_errors()
def serve(
    config: Annotated[
        str | None, typer.Option(help="YAML file of the service's settings; options override it.")
    ] = None,
    preset: options.Preset = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serves people, pictures and scores over HTTP; on a cluster: serve deploy."""
    _check_extra()
    import uvicorn

    from pipelines.serve import local_app
    from pipelines.serving.config import ServiceConfig
    from pipelines.settings import load_settings

    checked = load_settings(ServiceConfig, config, preset=preset)
    if host not in ("127.0.0.1", "::1", "localhost") and not checked.key_hashes:
        raise ValueError(f"host is {host}, allowed without key_hashes: 127.0.0.1, ::1, localhost")
    console.print(f"http://{host}:{port} once the models are loaded")
    # The access log would hold no prompt, but ids of people, which work like passwords.
    uvicorn.run(
        local_app(checked),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        limit_concurrency=checked.max_connections,
    )


def _check_extra() -> None:
    """One sentence where the packages of the extra are missing, not what lacks one of them."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"serve needs {', '.join(missing)}, missing here; install the extra: "
            'pip install -e ".[serve]"'
        )


if __name__ == "__main__":
    typer.run(serve)
