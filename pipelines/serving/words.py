"""The blocklist: words in prompts, however they are written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["Blocklist"]

_I_OR_L = "ı"
_ALIKE = {"i": "[iı]", "l": "[lı]", _I_OR_L: "[ilı]"}
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
            seen = " ".join(_words(_looks(word)))
            self._seen.append(re.compile(f" {''.join(_ALIKE.get(c, re.escape(c)) for c in seen)} "))

    def finds(self, text: str) -> bool:
        """Whether one of the words stands in the text."""
        if not self._phrases:
            return False
        if any(phrase in one for one in _readings(_plain(text)) for phrase in self._phrases):
            return True
        return not text.isascii() and any(
            phrase.search(one) for one in _readings(_looks(text)) for phrase in self._seen
        )


def _readings(plain: str) -> list[str]:
    """A text's words, each between spaces: as they stand, joined, and spelt."""
    joined = [w for part in plain.split() if (w := "".join(_words(part)))]
    return [f" {' '.join(words)} " for words in (_words(plain), joined, _spelt(_words(plain)))]


def _bare(text: str) -> str:
    """Compatibility forms, without marks and characters of no width."""
    folded = unicodedata.normalize("NFKD", text)
    return "".join(c for c in folded if unicodedata.category(c) not in ("Mn", "Cf"))


def _plain(text: str) -> str:
    return _bare(_bare(text).casefold())


def _looks(text: str) -> str:
    """As it looks, in small Latin letters; what stands for an i or an l, whose forms meet in
    capitals, is "ı"."""
    # Capitals by their own form first: a Greek capital nu is an N, the small letter a v.
    seen = "".join(map(_latin, _bare(text))).casefold()
    return "".join(map(_latin, seen)).casefold()


@lru_cache(4096)
def _latin(character: str) -> str:
    """The Latin letter that a character looks like, else the character."""
    if character.isascii() or character == _I_OR_L:
        return character
    found = _alike(character)
    return _I_OR_L if found in tuple("ilIL") else found


def _alike(character: str) -> str:
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
