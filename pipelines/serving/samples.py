"""Synthetic people that come with the package, for trying the service without a photo."""

from __future__ import annotations

from importlib.resources import files

from pipelines.serving.errors import ServiceError

__all__ = ["sample_names", "sample_photo"]

_FOLDER = files("pipelines") / "data" / "samples"


def sample_names() -> list[str]:
    """Names of the sample people, sorted."""
    return sorted(
        entry.name.removesuffix(".png")
        for entry in _FOLDER.iterdir()
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
    return (_FOLDER / f"{name}.png").read_bytes()
