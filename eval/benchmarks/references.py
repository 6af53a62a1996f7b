"""Lists such as Unsplash-50: a folder of photos, a person each, and a file of prompts for all.

Layout: photos directly in the folder or in its `references/` (jpg, jpeg, png, webp), and
`prompts.txt` with a prompt a line. `{subject}` in a prompt becomes "person"; blank lines and lines
that begin with # are passed over.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks.cases import PICTURE_SUFFIXES, Benchmark, Case

__all__ = ["read_references"]


def read_references(folder: str | Path) -> Benchmark:
    """Every photo as a person, and the prompts.

    Args:
        folder: in the layout above.

    Raises:
        ValueError: no such folder, no photo, no prompt, or two photos of one name.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"folder of references {str(root)!r} does not exist")
    photos = root / "references" if (root / "references").is_dir() else root
    found = sorted(one for one in photos.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(
            f"folder {str(photos)!r} holds no photo, allowed: {', '.join(PICTURE_SUFFIXES)}"
        )
    names = [path.stem for path in found]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ValueError(
            f"folder {str(photos)!r} holds two photos {double!r}, allowed: one a person"
        )
    listed = root / "prompts.txt"
    if not listed.is_file():
        raise ValueError(
            f"folder {str(root)!r} has no prompts.txt, allowed: one with a prompt a line"
        )
    lines = [line.strip() for line in listed.read_text("utf-8").splitlines()]
    texts = [line for line in lines if line and not line.startswith("#")]
    if not texts:
        raise ValueError(f"{listed} holds no prompt, allowed: one a line")
    cases = [Case(path.stem, path.read_bytes()) for path in found]
    return Benchmark(
        f"{len(cases)} references, {len(texts)} prompts",
        cases,
        prompts=[(f"p{number:03d}", text) for number, text in enumerate(texts)],
    )
