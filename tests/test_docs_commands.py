"""Every command that the documents show is one that the command line takes."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

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


def test_pages_that_show_commands_were_found():
    assert sum(len(commands(page)) for page in PAGES) > 30
