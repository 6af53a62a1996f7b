"""Names that read as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinite_id.names import name_fault


@pytest.mark.parametrize(
    "name",
    [
        "anna",
        "Anna-Maria O'Neil (2)",
        "00000/00012",
        "zo\u00eb",
        "zoe\u0308",
        "\u738b\u83f2",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with its joiner
        "\u0915\u094d\u200d\u0937",  # Hindi
        "\U0001f469\u200d\U0001f680",  # an emoji of two
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\u0d28\u0d3e\u0d30\u0d3e\u0d2f\u0d23\u0d28\u0d4d\u200d",  # Malayalam ends so
        "\u0d2e\u0d4b\u0d39\u0d28\u0d4d\u200d \u0d32\u0d3e\u0d32\u0d4d\u200d",
        "\u062e\u0627\u0646\u0647\u200c2",
        "\u0645\u06cc\u200c \u062e\u0648\u0627\u0647\u0645",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "1\ufe0f\u20e3",
        "\u845b\U000e0100",  # a variant of the character, as in Japanese family names
    ],
)
def test_names_of_every_script_are_names(name):
    assert name_fault(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "it is blank"),
        (" \u00a0", "it is blank"),
        ("anna ", "it has a space at its ends"),
        ("\nanna", "it has a space at its ends"),
        ("an\nna", "it has U+000A"),
        ("an\tna", "it has U+0009"),
        ("an\x1b[31mna", "it has U+001B"),
        ("an\u0085na", "it has U+0085"),
        ("an\u2028na", "it has U+2028"),
        ("an\u200bna", "it has U+200B"),
        ("\u202eanna", "it has U+202E"),
        ("anna\u200e", "it has U+200E"),
        ("an\u00adna", "it has U+00AD"),
        ("an\u200dna", "it has U+200D"),  # reads as "anna"
        ("\u200d\u0915\u0937", "it has U+200D"),
        ("\u0915\u200d", "it has U+200D"),
        ("\u0915\u200d\u200d\u0937", "it has U+200D"),
        ("an\ud800na", "it has U+D800"),
        ("an\u034fna", "it has U+034F"),
        ("anna\ufe0f", "it has U+FE0F"),
        ("an\u3164na", "it has U+3164"),
        ("\u2800", "it has U+2800"),
        ("an\u180bna", "it has U+180B"),
        ("\u738b\u200d\u83f2", "it has U+200D"),
        ("\u00e9\u200d\u00e9", "it has U+200D"),
        ("anna\U000e0067", "it has U+E0067"),
    ],
)
def test_what_nobody_sees_is_no_part_of_a_name(name, fault):
    assert name_fault(name) == fault


@given(st.text(min_size=1))
def test_a_name_without_fault_stays_on_its_line(name):
    if name_fault(name) is None:
        assert name.splitlines() == [name.strip()]
