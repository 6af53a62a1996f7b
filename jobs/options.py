"""Command-line options that several jobs have, and how their values are read."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from eval import places
from infinite_id.config import PRESETS, PROFILES

__all__ = [
    "Address",
    "AllowUntrained",
    "BatchSize",
    "CheckPeople",
    "Config",
    "Groups",
    "Identities",
    "LargestFace",
    "Layout",
    "Methods",
    "Mixes",
    "Output",
    "Preset",
    "Profile",
    "Prompts",
    "Resume",
    "RunLayout",
    "Seeds",
    "Set",
    "Steps",
    "StorageOptions",
    "Styles",
    "TrackingUri",
    "command_line",
    "names_of",
    "set_values",
    "storage_options",
    "yaml_value",
]

_OPTION = "--storage-options"

Config = Annotated[str | None, typer.Option(help="YAML file; options override it; default: none.")]
Identities = Annotated[
    str | None, typer.Option(help="Manifest, or folder of photos; default: demo photos.")
]
_LAYOUT = typer.Option(
    help="Who is in a photo of a folder. person: a file or folder at the top; nested: the folder "
    "that the photo lies in; file: each file is a person."
)
Layout = Annotated[str, _LAYOUT]
RunLayout = Annotated[str | None, _LAYOUT]
Prompts = Annotated[str | None, typer.Option(help="Prompts manifest; default: the shipped one.")]
Styles = Annotated[str | None, typer.Option(help="Styles manifest; default: the shipped one.")]
Mixes = Annotated[str | None, typer.Option(help="Mixes manifest; default: no mixes.")]
Groups = Annotated[
    str | None,
    typer.Option(help="Groups manifest: people in one picture; default: no groups."),
]
Methods = Annotated[
    str | None, typer.Option(help="Methods, comma-separated; see infinite-id methods.")
]
Seeds = Annotated[
    str | None, typer.Option(help="Of each person, prompt and style: 0:4 (0 to 3), or 7, or 0,3,9.")
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; default: the preset's.")]
BatchSize = Annotated[int | None, typer.Option(help="Pictures per generation batch.")]
Output = Annotated[str | None, typer.Option(help="Run folder, any fsspec address.")]
Preset = Annotated[str | None, typer.Option(help=f"{', '.join(sorted(PRESETS))}.")]
Profile = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(PROFILES)}: steps and work left out for speed; default: full."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else a local one.")
]
CheckPeople = Annotated[
    bool,
    typer.Option(
        "--check-people", help="Refuse photos that do not agree with the person's others."
    ),
]
LargestFace = Annotated[
    bool, typer.Option("--largest-face", help="Of several faces in a photo take the largest.")
]
StorageOptions = Annotated[
    str | None,
    typer.Option(
        help='Of file systems by scheme, JSON or a file of it: {"s3": {"endpoint_url": "..."}}; '
        "default: none."
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="MLflow; default: MLFLOW_TRACKING_URI, else SQLite beside the output; none: off."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run that is in the output folder.")
]

AllowUntrained = Annotated[
    bool,
    typer.Option("--allow-untrained", help="Random weights where none are trained: noise."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="key=value of any setting of the file; may be repeated; default: none."
    ),
]


def set_values(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` texts of `--set` as settings; values are read as YAML."""
    found = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair!r} has no '=', allowed: key=value")
        found[key] = yaml_value(value, f"--set {key}")
    return found


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


def storage_options(text: str | None) -> places.StorageOptions | None:
    """The options of file systems by scheme; None where nothing is given.

    Args:
        text: JSON, or the path of a file that holds it.

    Raises:
        ValueError: neither; the message has no value, which may be a key or a password.
    """
    if text is None:
        return None
    where = "storage options"
    if not text.lstrip().startswith(("{", "[")):
        where = f"storage options of {text}"
        try:
            text = Path(text).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ValueError(
                f"{where} cannot be read ({reason}), allowed: JSON, or a file of JSON"
            ) from None
    try:
        return places.StorageOptions(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} are no JSON ({error.msg}), allowed: a mapping") from None


def command_line() -> str:
    """The command as it was typed, without the program's folder and what gives access."""
    words = [Path(sys.argv[0]).name]
    for before, word in zip(sys.argv, sys.argv[1:], strict=False):
        name, equals, _ = word.partition("=")
        inline = name == _OPTION and equals
        if (before == _OPTION or inline) and "{" in word:
            word = f"{_OPTION}=***" if inline else "***"
        key, found, _ = word.partition("vlm_key=")
        if found:
            word = f"{key}{found}***"
        words.append(places.shown(word))
    return shlex.join(words)
