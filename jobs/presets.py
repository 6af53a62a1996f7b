"""What each preset is made of: `infinite-id presets`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from infinite_id.config import PRESETS
from infinite_id.preset_files import preset_files
from jobs.console import console, user_errors

__all__ = ["presets"]


@user_errors()
def presets(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the presets with their files, sizes and licences."""
    found = {name: preset_files(own) for name, own in PRESETS.items()}
    if as_json:
        print(json.dumps({k: [asdict(one) for one in v] for k, v in found.items()}, indent=1))
        return
    for name, files in found.items():
        own = PRESETS[name]
        free = all(one.commercial is not False for one in files)
        use = "" if free else "; not for commercial use"
        console.print(f"[bold]{name}[/bold]: {own.width} x {own.height} px, {own.dtype}{use}")
        for one in files:
            mark = " " if one.checked or one.size == "-" else "?"
            line = f"{mark} {one.part:<8} {one.size:<19} {one.licence:<24} {one.address}"
            console.print(line, markup=False)
    console.print("? size and licence as the publisher states them; never downloaded here")
    console.print("base, adapter, faces, clip and scorer of a configuration set others")


if __name__ == "__main__":
    typer.run(presets)
