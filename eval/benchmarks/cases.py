"""What a benchmark asks for: a prompt for a person of a photo, and how another photo shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["PICTURE_SUFFIXES", "Benchmark", "Case", "GroupCase"]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Case:
    """One person of a benchmark.

    Attributes:
        case_id: names the person and, where each has one, the prompt.
        reference: encoded photo that a method is given.
        target: encoded photo of the same person that no method sees (the ground truth); None: the
            benchmark has none.
        prompt: of this person alone; None: the benchmark's prompts are crossed with all people.
    """

    case_id: str
    reference: bytes
    target: bytes | None = None
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class GroupCase:
    """Several people of a benchmark in one picture.

    Attributes:
        case_id: names the group.
        people: case_ids of its people, in the order of their references.
        prompt: of this group alone.
    """

    case_id: str
    people: tuple[str, ...]
    prompt: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark as it was read.

    Attributes:
        name: for titles and files.
        cases: people, each case_id once.
        prompts: (prompt_id, text) for all of them; empty where each case has its own.
        notes: what was left out, in sentences.
        groups: of the people of `cases`, of whom there are no pictures alone then.
    """

    name: str
    cases: list[Case]
    prompts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: list[GroupCase] = field(default_factory=list)
