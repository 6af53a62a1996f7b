"""Every command that the documents show is one that the command line takes."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.exceptions import TyperException

from jobs.cli import EXAMPLES, app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = re.compile(r"^(?:\$ )?(?:\S+=\S+ )*(infinite-id|python jobs/(\w+)\.py)\s+(.*)$")


def commands(page: Path) -> list[str]:
    """Lines that begin with one of our commands, with their continuations."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if OURS.match(line.strip())]


def arguments(line: str) -> list[str]:
    """What follows `infinite-id`, or the like of `python jobs/NAME.py`."""
    found = OURS.match(line)
    assert found is not None
    words = shlex.split(found[3], comments=True)
    for stop in ("&", "|", ">", "&&", ";"):
        if stop in words:
            words = words[: words.index(stop)]
    return [found[2], *words] if found[2] else words


@pytest.mark.parametrize(
    ("page", "line"),
    [(page.name, line) for page in PAGES for line in commands(page)]
    + [("--help", line) for line in EXAMPLES.values()],
    ids=lambda value: value[:60],
)
def test_a_documented_command_is_taken(page: str, line: str):
    words = arguments(line)
    if "..." in words:
        words = words[: words.index("...")]
    with contextlib.suppress(typer.Exit):  # --help, --version
        try:
            _parse(words)
        except TyperException as error:
            pytest.fail(f"{page}: {line!r}: {error}")


def _parse(words: list[str]) -> None:
    """Goes down to the command that the words name, and parses its options."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(str(command.name), words):
        pass


def helps() -> Iterator[tuple[str, click.Parameter]]:
    """Parameters of every command, with the command's name."""
    todo = [typer.main.get_command(app)]
    while todo:
        command = todo.pop()
        todo += getattr(command, "commands", {}).values()
        for param in command.params:
            yield str(command.name), param


@pytest.mark.parametrize(
    ("command", "param"), [pytest.param(*one, id=f"{one[0]}-{one[1].name}") for one in helps()]
)
def test_help_says_what_is_needed_and_what_is_the_default(command: str, param: Any):
    if param.name == "help" or getattr(param, "is_flag", False):
        return
    told = param.help
    assert told, "no help"
    assert param.required or param.default is not None or re.search("default: |[Nn]eeded", told)


def test_help_shows_the_defaults_of_the_settings():
    told = {(command, param.name): getattr(param, "help", "") for command, param in helps()}
    assert told["benchmark", "batch_size"] == "Pictures per generation batch; default: 8."
    assert told["train", "batch_size"].endswith("; default: 4.")
    assert told["synthesize", "output"].endswith("; default: runs/synthesis.")
    assert told["benchmark", "methods"].endswith("; default: infinite_id.")


def test_pages_that_show_commands_were_found():
    assert sum(len(commands(page)) for page in PAGES) > 30
