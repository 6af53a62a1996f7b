"""`infinite-id serve`: the HTTP service in one process."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.console import console, user_errors

__all__ = ["serve"]


@user_errors
def serve(
    config: Annotated[
        str | None, typer.Option(help="YAML file of the service's settings; options override it.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="pocket or sdxl.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serves people, pictures and scores over HTTP; on a cluster: serve deploy."""
    from pathlib import Path

    import uvicorn
    import yaml

    from pipelines.serve import local_app
    from pipelines.serving.config import ServiceConfig

    settings: dict[str, object] = {}
    if config is not None:
        if not Path(config).is_file():
            raise ValueError(f"config {config} does not exist")
        settings = yaml.safe_load(Path(config).read_text()) or {}
    if preset is not None:
        settings["preset"] = preset
    checked = ServiceConfig.model_validate(settings)
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
