"""Which pictures a report shows, and their small copies."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from eval.pictures import open_picture
from eval.run_data import RunData

__all__ = ["choose_pictures", "data_uri", "thumbnail"]

# People shown side by side before the next prompt or seed is added.
GRID_PEOPLE = 12


def choose_pictures(data: RunData, extreme: Iterable[str], cap: int) -> list[str]:
    """sample_ids of at most `cap` pictures that exist, in the order of the samples.

    The extreme ones come first; then whole grids: the first people with the first seed and
    prompt in all methods and styles, then their other prompts and seeds, then the next people.

    Args:
        data: of `read_run`.
        extreme: sample_ids that must be in.
        cap: >= 0.
    """
    made = np.flatnonzero(data.samples["has_image"])
    ids = data.samples["sample_id"]
    if len(made) <= cap:
        return ids[made].tolist()
    rank = {
        name: {value: number for number, value in enumerate(data.names(name))}
        for name in ("identity_id", "prompt_id", "seed")
    }

    def order(row: int) -> tuple[int, ...]:
        person, prompt, seed = (
            rank[name][data.samples[name][row]] for name in ("identity_id", "prompt_id", "seed")
        )
        return person // GRID_PEOPLE, seed, prompt, person, row

    wanted = dict.fromkeys(extreme)
    wanted.update(dict.fromkeys(ids[row] for row in sorted(made.tolist(), key=order)))
    chosen = set(list(wanted)[:cap])
    return [name for name in ids[made].tolist() if name in chosen]


def thumbnail(data: bytes, edge: int) -> dict[str, Any] | None:
    """{"src", "width", "height"} of a copy at most `edge` pixels wide and high.

    The source is a WebP data URI; None where the bytes hold no picture.
    """
    picture = open_picture(data)
    if picture is None:
        return None
    picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", quality=85, method=2)
    return {
        "src": data_uri(stream.getvalue(), "image/webp"),
        "width": picture.width,
        "height": picture.height,
    }


def data_uri(data: bytes, media_type: str) -> str:
    """``data:`` address of some bytes."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
