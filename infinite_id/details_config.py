"""Settings of the detail pass. Light: importing this costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DetailsConfig", "detailed_revision", "details_of"]


@dataclass(frozen=True, slots=True)
class DetailsConfig:
    """Which faces are made again, and how (docs/details.md).

    Attributes:
        share: of the picture's shorter side, in (0, 1]: narrower faces are made again.
        least: pixels; faces that are narrower still are left alone.
        margin: around the face, in widths of it, on each side.
        strength: share of the steps that the face is denoised for, in (0, 1].
        feather: of the cut-out's side, in [0, 0.5], over which it fades into the picture.
    """

    share: float = 0.25
    least: float = 8.0
    margin: float = 0.75
    strength: float = 0.4
    feather: float = 0.15

    def __post_init__(self) -> None:
        for name in ("share", "strength"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"details {name} is {getattr(self, name)}, allowed: more than 0, at most 1"
                )
        if not 0 < self.least < float("inf"):
            raise ValueError(f"details least is {self.least}, allowed: pixels, more than 0")
        if not 0 <= self.margin <= 4:
            raise ValueError(f"details margin is {self.margin}, allowed: 0 to 4")
        if not 0 <= self.feather <= 0.5:
            raise ValueError(f"details feather is {self.feather}, allowed: 0 to 0.5")


def detailed_revision(revision: str, config: DetailsConfig) -> str:
    """The revision of a generator whose small faces are made again, of that without."""
    return f"{revision}+details-{config!r}"


def details_of(given: bool | DetailsConfig) -> DetailsConfig | None:
    """Settings of what a caller says; None: no detail pass.

    Raises:
        ValueError: something else.
    """
    if isinstance(given, DetailsConfig):
        return given
    if not isinstance(given, bool):
        raise ValueError(
            f"details is a {type(given).__name__}, allowed: True, False, or a DetailsConfig"
        )
    return DetailsConfig() if given else None
