"""Command-line options that several jobs have, and how their values are read."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from infinite_id.config import PRESETS

__all__ = [
    "Address",
    "BatchSize",
    "Config",
    "Identities",
    "LargestFace",
    "Methods",
    "Mixes",
    "Output",
    "Preset",
    "Prompts",
    "Resume",
    "Seeds",
    "Steps",
    "Styles",
    "command_line",
    "names_of",
    "yaml_value",
]

Config = Annotated[str | None, typer.Option(help="YAML file; options override it.")]
Identities = Annotated[
    str | None, typer.Option(help="Manifest, or folder of photos; default: demo photos.")
]
Prompts = Annotated[str | None, typer.Option(help="Prompts manifest.")]
Styles = Annotated[str | None, typer.Option(help="Styles manifest.")]
Mixes = Annotated[str | None, typer.Option(help="Mixes manifest.")]
Methods = Annotated[str | None, typer.Option(help="Methods, comma-separated.")]
Seeds = Annotated[str | None, typer.Option(help="0:4, or 7, or 0,3,9.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
BatchSize = Annotated[int | None, typer.Option(help="Pictures a generation batch.")]
Output = Annotated[str | None, typer.Option(help="Run folder, any fsspec address.")]
Preset = Annotated[str | None, typer.Option(help=f"{', '.join(sorted(PRESETS))}.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else a local one.")
]
LargestFace = Annotated[
    bool, typer.Option("--largest-face", help="Of several faces in a photo take the largest.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that is in the output folder.")
]


def names_of(text: str | None) -> list[str] | None:
    """The names of "one,two"; None where nothing is given."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def yaml_value(text: str, what: str) -> Any:
    """The value that an option's text is in YAML.

    Args:
        text: of the value alone.
        what: names it in the message.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ValueError(f"{what} is {text!r}, allowed: a value in YAML ({reason})") from None


def command_line() -> str:
    """The command as it was typed, without the program's folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
