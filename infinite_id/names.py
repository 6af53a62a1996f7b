"""What may name a person, a prompt, a style or a mix: text that reads as it is written. Light."""

from __future__ import annotations

import unicodedata

__all__ = ["NAME_RULE", "name_fault"]

NAME_RULE = "text without spaces at its ends, line breaks, control and invisible characters"
"""What is allowed, for messages."""

_REFUSED = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Persian, the scripts of India and emoji join or part two of their characters by these.
_JOINERS = "\u200c\u200d"


def name_fault(name: str) -> str | None:
    """What is wrong with a name, in words; None where nothing is.

    Refused are the characters of the Unicode categories Cc, Cf, Cs, Zl and Zp: tables, file names
    and terminals show them wrongly or not at all, so that two people read the same. The joiners
    U+200C and U+200D stay between two characters that are not ASCII.
    """
    if not name.strip():
        return "it is blank"
    if name != name.strip():
        return "it has a space at its ends"
    for place, character in enumerate(name):
        if unicodedata.category(character) not in _REFUSED:
            continue
        around = name[place - 1 : place] + name[place + 1 : place + 2]
        if character in _JOINERS and len(around) == 2 and not _plain_or_refused(around):
            continue
        return f"it has U+{ord(character):04X}"
    return None


def _plain_or_refused(characters: str) -> bool:
    return any(c.isascii() or unicodedata.category(c) in _REFUSED for c in characters)
