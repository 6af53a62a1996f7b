"""The blocklist: words in prompts, however they are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["Blocklist"]


class Blocklist:
    """Finds words and phrases as whole words.

    Full-width letters, capitals, accents and characters without width make no difference; every
    character that is neither a letter nor a digit parts words, and is also read as nothing
    ("na-ked", "n.a.k.e.d"). Letters of other scripts that look alike are not recognised.

    Args:
        words: words or phrases; an empty list finds nothing.

    Raises:
        ValueError: an entry holds no letter and no digit.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._phrases = []
        for word in words:
            parts = _words(_plain(word))
            if not parts:
                raise ValueError(f"blocked_words has {word!r}, allowed: with letters or digits")
            self._phrases.append(f" {' '.join(parts)} ")

    def finds(self, text: str) -> bool:
        """Whether one of the words stands in the text."""
        if not self._phrases:
            return False
        plain = _plain(text)
        joined = [w for part in plain.split() if (w := "".join(_words(part)))]
        readings = (" ".join(_words(plain)), " ".join(joined), " ".join(_spelt(_words(plain))))
        return any(phrase in f" {reading} " for reading in readings for phrase in self._phrases)


def _plain(text: str) -> str:
    """Compatibility forms, without marks and characters of no width, in small letters."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text).split()


def _spelt(words: list[str]) -> list[str]:
    """Single letters in a row become one word."""
    made: list[str] = []
    spelling = False
    for word in words:
        if len(word) == 1 and spelling:
            made[-1] += word
        else:
            made.append(word)
        spelling = len(word) == 1
    return made
