"""Consent, licence and source of a mix are those of all its people."""

from __future__ import annotations

from pipelines.tables.people import provenance_of


def person(name: str, **values: str | None) -> dict[str, str | None]:
    known = {"class_word": "woman", "consent": "yes", "licence": "CC0", "source": None}
    return {"identity_id": name, **known, **values}


def test_one_person_keeps_what_is_written():
    assert provenance_of([person("ada", consent="form 7")]) == {
        "class_word": "woman", "consent": "form 7", "licence": "CC0", "source": None,
    }  # fmt: skip


def test_a_mix_tells_each_where_they_differ():
    mixed = provenance_of(
        [person("ada"), person("bo", class_word="man", consent="no", source="a book")]
    )
    assert mixed == {
        "class_word": "person",
        "consent": "ada: yes; bo: no",
        "licence": "CC0",
        "source": "ada: not given; bo: a book",
    }
