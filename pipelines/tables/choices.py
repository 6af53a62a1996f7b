"""What settings may say of photos, pictures and seeds. Light: no pyarrow, no Pillow."""

from __future__ import annotations

__all__ = ["IMAGE_FORMATS", "LAYOUTS", "parse_seeds"]

IMAGE_FORMATS = ("png", "webp", "jpeg")
LAYOUTS = ("person", "nested", "file")


def parse_seeds(text: str) -> list[int]:
    """Seeds from "0:4" (0, 1, 2, 3), "7" or "0,3,9".

    Raises:
        ValueError: anything else, or an empty, negative or repeated seed.
    """
    try:
        if ":" in text:
            first, _, last = text.partition(":")
            seeds = list(range(int(first or 0), int(last)))
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds) or max(seeds) >= 2**63:
        raise ValueError(f"seeds are {text!r}, allowed: 0:4, or 7, or 0,3,9 (each once, >= 0)")
    return seeds
