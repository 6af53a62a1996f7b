"""The blocklist: words in prompts, however they are written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["Blocklist"]

_FORM = re.compile(r".*(?:LATIN|REGIONAL INDICATOR)\b.* ([A-Z])(?: WITH .+)?")


class Blocklist:
    """Finds words and phrases as whole words.

    Full-width letters, capitals, accents and characters without width make no difference; every
    character that is neither a letter nor a digit parts words, and is also read as nothing
    ("na-ked", "n.a.k.e.d"). Letters that look like Latin ones, of other scripts too, are read as
    those (Unicode's confusables): a Cyrillic text that looks like a blocked word is found with it.
    Digits in the place of letters ("n4ked") are not.

    Args:
        words: words or phrases; an empty list finds nothing.

    Raises:
        ValueError: an entry holds no letter and no digit.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._phrases, self._seen = [], []
        for word in words:
            parts = _words(_plain(word))
            if not parts:
                raise ValueError(f"blocked_words has {word!r}, allowed: with letters or digits")
            self._phrases.append(f" {' '.join(parts)} ")
            self._seen.append(f" {' '.join(_words(_looks(word)))} ")

    def finds(self, text: str) -> bool:
        """Whether one of the words stands in the text."""
        if not self._phrases:
            return False
        return _holds(_plain(text), self._phrases) or (
            not text.isascii() and _holds(_looks(text), self._seen)
        )


def _holds(plain: str, phrases: list[str]) -> bool:
    joined = [w for part in plain.split() if (w := "".join(_words(part)))]
    readings = (" ".join(_words(plain)), " ".join(joined), " ".join(_spelt(_words(plain))))
    return any(phrase in f" {reading} " for reading in readings for phrase in phrases)


def _bare(text: str) -> str:
    """Compatibility forms, without marks and characters of no width."""
    folded = unicodedata.normalize("NFKD", text)
    return "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))


def _plain(text: str) -> str:
    return _bare(_bare(text).casefold())


def _looks(text: str) -> str:
    """As it looks, in small Latin letters; i and l, whose forms meet in capitals, are one."""
    # Capitals by their own form first: a Greek capital nu is an N, the small letter a v.
    seen = "".join(map(_latin, _bare(text))).casefold()
    return "".join(map(_latin, seen)).casefold().replace("l", "i")


@lru_cache(4096)
def _latin(character: str) -> str:
    """The Latin letter that a character looks like, else the character."""
    if character.isascii():
        return character
    from confusable_homoglyphs.confusables import confusables_data

    for alike in confusables_data.get(character, ()):
        bare = _bare(alike["c"])
        if len(bare) == 1 and bare.isascii() and bare.isalpha():
            return bare
    # Small capitals, turned letters, letters in black squares.
    named = _FORM.fullmatch(unicodedata.name(character, ""))
    return named[1] if named else character


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
