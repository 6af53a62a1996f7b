"""The service in one process: `python jobs/serve.py [options]`."""

from __future__ import annotations

from pipelines.run.environment import quiet

quiet()

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import console, user_errors
from pipelines.run.failures import RunFailedError

if TYPE_CHECKING:
    from pipelines.serving.server import Server

__all__ = [
    "serve",
]

# Packages of the extra, by what they are imported as.
_EXTRA = (
    "fastapi",
    "uvicorn",
    "httpx",
    "python_multipart",
    "prometheus_client",
    "confusable_homoglyphs",
)


@user_errors()
def serve(
    config: Annotated[
        str | None,
        typer.Option(
            help="YAML file of the service's settings; options override it; default: none."
        ),
    ] = None,
    preset: options.Preset = None,
    profile: options.Profile = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on, 0 for any.")] = 8000,
    make_key: Annotated[
        bool, typer.Option("--new-key", help="Show a new API key and its hash, and serve nothing.")
    ] = False,
    allow_untrained: options.AllowUntrained = False,
    override: options.Set = None,
) -> None:
    """Serves people, pictures and scores over HTTP; on a cluster: serve deploy."""
    _check_extra()
    if make_key:
        _show_key()
        return
    # In the order of what they take: wrong arguments are told before the model's are loaded.
    from pipelines.serving.config import ServiceConfig, check_places
    from pipelines.settings import load_settings

    given = {"preset": preset, "profile": profile, "allow_untrained": allow_untrained or None}
    checked = load_settings(ServiceConfig, config, **{**given, **options.set_values(override)})
    if not 0 <= port < 2**16:
        raise ValueError(f"port is {port}, allowed: 0 to 65535")
    from pipelines.serving.callers import is_loopback

    if checked.open and not is_loopback(host):
        raise ValueError(
            f"host is {host}, allowed without key_hashes and key_file: 127.0.0.1, ::1, localhost"
        )
    check_places(checked)
    from pipelines.serving.server import Server, listen

    listening = listen(host, port, checked)
    from pipelines.plan.weights import run_weights
    from pipelines.serve import local_app

    run_weights(checked.family(), checked.methods, checked.storage_options)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    methods = f"{len(checked.methods)} method{'s' if len(checked.methods) > 1 else ''}"
    server: Server

    def ready() -> None:
        profile = f", profile {checked.profile}" if checked.profile else ""
        console.print(f"ready on {address} ({checked.preset}{profile}, {methods})")

    app = local_app(checked, lambda kind: server.lose(f"the generators, {kind}"))
    server = Server(
        app,
        checked,
        listening,
        ready,
        lambda count: app.state.measures.record("connections", count),
    )
    console.print(f"loading {checked.preset}")
    server.serve_until_told()
    if app.state.failure is not None:
        raise app.state.failure
    if server.lost is not None:
        raise RunFailedError(f"the service has lost {server.lost}")


def _show_key() -> None:
    from pipelines.serving.keys import hash_key, new_key

    key = new_key()
    console.print(f"key, for the client alone (it is shown once): {key}")
    console.print(f"hash, for key_hashes or a line of key_file: {hash_key(key)}")


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
