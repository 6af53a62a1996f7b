"""What may name a person, a prompt, a style or a mix: text that reads as it is written. Light."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["NAME_RULE", "name_fault"]

NAME_RULE = "text without spaces at its ends, line breaks, control and invisible characters"
"""What is allowed, for messages."""

_REFUSED = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Letters and marks by their category that show nothing: joiner of graphemes, Hangul fillers, Khmer
# vowels of old, blank braille.
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800"
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_VIRAMA = 9
# Flags of regions, as England's.
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")


def name_fault(name: str) -> str | None:
    """What is wrong with a name, in words; None where nothing is.

    Refused are the characters of the Unicode categories Cc, Cf, Cs, Zl and Zp, and others that
    show nothing: tables, file names and terminals show them wrongly or not at all, so that two
    people read the same. The joiners U+200C and U+200D stay where a script needs them: after a
    virama (India), after an Arabic letter (Persian), and U+200D between two emoji. Variation
    selectors stay after what has variants.
    """
    if not name.strip():
        return "it is blank"
    if name != name.strip():
        return "it has a space at its ends"
    seen = _FLAG.sub("\U0001f3f4", name)
    for place, character in enumerate(seen):
        if not _shows(character, seen[max(0, place - 1) : place], seen[place + 1 : place + 2]):
            return f"it has U+{ord(character):04X}"
    return None


def _shows(character: str, before: str, after: str) -> bool:
    """Whether a character between its neighbours, "" at an end, is seen or shapes what is."""
    if character in (_NON_JOINER, _JOINER):
        if before and unicodedata.combining(before) == _VIRAMA:
            return True
        if before and unicodedata.bidirectional(before) == "AL":
            return bool(after) or character == _JOINER
        return character == _JOINER and _is_emoji(before) and _is_emoji(after)
    if "\ufe00" <= character <= "\ufe0f":
        return bool(before) and not (before.isalpha() and _is_cased(before))
    if "\u180b" <= character <= "\u180f":
        return "\u1800" <= before <= "\u18af"
    return character not in _BLANK and unicodedata.category(character) not in _REFUSED


def _is_emoji(character: str) -> bool:
    return bool(character) and (
        unicodedata.category(character) in ("So", "Sk") or character == "\ufe0f"
    )


def _is_cased(character: str) -> bool:
    return unicodedata.category(character) in ("Ll", "Lu", "Lt")
