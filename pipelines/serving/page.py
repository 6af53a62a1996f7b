"""The browser page and the sample people: static files of the packages."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from pipelines.serving.errors import ServiceError

__all__ = [
    "mount_page",
    "sample_names",
    "sample_photo",
]

_SAMPLES = files("infinite_id") / "assets" / "samples"
_PAGE = Path(str(files("pipelines") / "data" / "page"))


# Nothing but this server's own files and the pictures it sends: no inline script or style, no
# other host, no frame around the page.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(_HEADERS)
        return answer


def mount_page(app: FastAPI) -> None:
    """Adds `/` and its files under `/page`; they need no key, their requests do."""

    async def index() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers=_HEADERS)

    app.add_api_route("/", index, include_in_schema=False, response_class=FileResponse)
    app.mount("/page", _Files(directory=_PAGE))


def sample_names() -> list[str]:
    """Names of the sample people, sorted."""
    return sorted(
        entry.name.removesuffix(".png")
        for entry in _SAMPLES.iterdir()
        if entry.name.endswith(".png")
    )


def sample_photo(name: str) -> bytes:
    """The PNG of a sample person.

    Raises:
        ServiceError: 422, there is no such person.
    """
    # Only listed names are opened: a name is never part of a path before it is known.
    known = sample_names()
    if name not in known:
        message = f"The sample is unknown, allowed: {', '.join(known)}."
        raise ServiceError(422, "unknown_sample", message)
    return (_SAMPLES / f"{name}.png").read_bytes()
