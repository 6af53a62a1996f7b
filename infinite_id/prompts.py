"""From a prompt with `{subject}` and a style to the text that the model reads. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import yaml

__all__ = ["Style", "fill_prompt", "group_word", "shipped_styles"]


@dataclass(frozen=True, slots=True)
class Style:
    """A style: `words` follow the prompt, `negative_prompt` is what to keep out of the picture."""

    words: str
    negative_prompt: str


def fill_prompt(prompt: str, class_word: str, words: str = "") -> str:
    """`prompt` with `{subject}` replaced by the class word and the style's words behind it."""
    filled = prompt.replace("{subject}", class_word)
    return f"{filled}, {words}" if words else filled


def group_word(words: Sequence[str]) -> str:
    """What `{subject}` becomes for several people: "man and a woman" behind the prompt's "a"."""
    rest = [f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}" for word in words[1:]]
    *before, last = [*words[:1], *rest]
    return f"{', '.join(before)} and {last}" if before else last


@lru_cache(maxsize=1)
def shipped_styles() -> dict[str, Style]:
    """The styles of `assets/styles.yaml` by name."""
    text = resources.files("infinite_id").joinpath("assets", "styles.yaml").read_text("utf-8")
    return {
        row["style"]: Style(row["suffix"], row["negative_prompt"]) for row in yaml.safe_load(text)
    }
