"""Slots, gates and verdicts of a synthesis: every open slot once, text-major, decided alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.judges.known_people import KnownPeople
from infinite_id.config import preset
from pipelines.export.job import export_run
from pipelines.plan.requests import PlanSettings, Subject, Text
from pipelines.run.units import unit_table
from pipelines.stages.generation import GenerationActor
from pipelines.synthesis.actors import MeasuringActor, VerdictActor, fingerprint
from pipelines.synthesis.config import Gates
from pipelines.synthesis.gates import Accepted, refusal
from pipelines.synthesis.report import write_synthesis_report
from pipelines.synthesis.slots import RoundPlan, SlotPlan, cut_draws
from pipelines.tables.schemas import IMAGES, REJECTS, VERDICTS
from pipelines.tables.storage import Store
from tests.pipelines.conftest import embeddings_table

ONLY_DUPLICATES = Gates(
    nsfw=None, one_face=False, identity=None, other_identity=None, duplicate_bits=26
)
GOOD = {
    "nsfw": 0.1,
    "face_count": 1.0,
    "identity_facenet": 0.7,
    "text_score": 0.3,
    "other_identity": 0.2,
    "other_person": "bo",
    "fingerprint": 0,
}


def slot_plan(people=3, per_person=4, texts=2, unit_size=2, rounds=3) -> SlotPlan:
    return SlotPlan(
        method=("timed", "revision-1"),
        texts=[Text(f"p{n}", "raw", f"a {{subject}} {n}", "", "") for n in range(texts)],
        subjects=[Subject(f"id{n}", "woman", f"d{n}") for n in range(people)],
        per_person=per_person,
        seed=5,
        settings=PlanSettings(64, 64, 2, 5.0),
        unit_size=unit_size,
        rounds=rounds,
    )


def run_rounds(store: Store, slots: SlotPlan, gates: Gates, stop_after: int = 10**9) -> None:
    """All rounds with the real actors, without Ray; stops after so many new units."""
    first = 0
    for number in range(slots.rounds):
        plan = RoundPlan(slots, store, number, first)
        if not plan.units:
            break
        first = plan.units.stop
        generate = GenerationActor(store, plan, preset("pocket"))
        measure = MeasuringActor(store, plan, gates, "pocket", [])
        for unit in plan.units:
            measure(generate(unit_table([unit])))
            stop_after -= 1
            if stop_after == 0:
                return
        decide = VerdictActor(store, plan, gates)
        for block in range(slots.blocks):
            decide(unit_table([slots.verdict(block, number)]))


@given(
    groups=st.lists(st.integers(1, 20), max_size=12),
    unit_size=st.integers(1, 9),
)
def test_cuts_hold_every_draw_once_and_are_at_least_half_full(groups, unit_size):
    slots = np.repeat(np.arange(len(groups)), groups)
    bounds = cut_draws(slots, unit_size)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, len(slots))
    assert all(1 <= size <= unit_size for size in sizes)
    assert all(2 * size >= unit_size for size in sizes[:-1])


@given(people=st.integers(1, 9), per_person=st.integers(1, 7), texts=st.integers(1, 3))
def test_a_first_round_has_every_slot_once_text_major(people, per_person, texts, tmp_path_factory):
    slots = slot_plan(people, per_person, texts, unit_size=4)
    plan = RoundPlan(slots, Store("memory://none"), 0, 0)
    found = [(slot, person) for unit in plan.units for slot, person, _ in plan.rows(unit)]
    assert found == list(itertools.product(range(per_person), range(people)))
    assert len(plan) == slots.wanted


def test_no_text_is_drawn_twice_with_one_seed():
    slots = slot_plan()
    drawn = [
        (row["prompt_id"], row["seed"])
        for number in range(slots.rounds)
        for row in (slots.row(slot, 0, number) for slot in range(slots.per_person))
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"nsfw": 0.8}, "nsfw"),
        ({"nsfw": math.nan, "face_count": 0.0}, "nsfw"),
        ({"face_count": 0.0}, "no_face"),
        ({"face_count": 2.0}, "several_faces"),
        ({"other_identity": 0.6}, "other_person"),
        ({"other_identity": math.nan}, "other_person"),
        ({"other_identity": -1.0}, None),
        ({"identity_facenet": 0.49}, "identity"),
        ({"identity_facenet": math.nan}, "identity"),
        ({"text_score": 0.1}, "text"),
        ({"fingerprint": 0b111}, "duplicate"),
        ({"fingerprint": 0xFF}, None),
    ],
)
def test_gates(change, reason):
    accepted = Accepted()
    accepted.add(0, 0b1)
    accepted.add(1, 0xFF)
    found = refusal({**GOOD, "fingerprint": 0xFFFF, **change}, 0, Gates(text=0.2), accepted)
    assert (found and found[0]) == reason
    assert refusal(None, 0, Gates(), accepted)[0] == "not_made"


def test_an_indecent_picture_is_refused_unless_the_gate_is_off():
    shown = {**GOOD, "nsfw": 0.91}
    assert refusal(shown, 0, Gates(), Accepted()) == ("nsfw", "nsfw is 0.910, allowed: below 0.8")
    assert refusal(shown, 0, Gates(nsfw=None), Accepted()) is None
    blind = {**GOOD, "nsfw": math.nan}
    assert refusal(blind, 0, Gates(), Accepted())[1] == "nsfw is not measurable, allowed: below 0.8"
    assert Gates().metrics[0] == "nsfw"
    assert "nsfw" not in Gates(nsfw=None).metrics


def test_pictures_are_judged_before_the_verdict(tmp_path):
    """With the real network, on pictures of the timed generator."""
    store = Store(tmp_path / "run")
    store.write_table("embeddings/part-000000000.parquet", embeddings_table(2))
    gates = Gates(nsfw=1e-6, one_face=False, identity=None, other_identity=None)
    run_rounds(store, slot_plan(people=2, per_person=1, rounds=1), gates)
    refused = store.read_folder("rejects", REJECTS).to_pylist()
    assert [row["reason"] for row in refused] == ["nsfw"] * 2
    assert all(row["message"].endswith("allowed: below 1e-06") for row in refused)


def test_someone_else_is_found_in_any_face_of_a_picture():
    known = KnownPeople(["ada", "bo", "cy"], np.eye(3, dtype=np.float32))
    faces = np.array([[1, 0, 0], [0.6, 0, 0.8]], dtype=np.float32)
    assert known.nearest(faces, ["ada"]) == (pytest.approx(0.8), "cy")
    assert known.nearest(faces, ["ada", "bo", "cy"]) == (-1.0, None)
    assert KnownPeople([], np.empty((0, 3), np.float32)).nearest(faces, []) == (-1.0, None)
    assert math.isnan(known.nearest(np.empty((0, 3), np.float32), [])[0])


def test_a_fingerprint_survives_noise_and_tells_pictures_apart():
    rng = np.random.default_rng(0)
    one, two = (
        rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1) for _ in "ab"
    )
    noisy = np.clip(one.astype(int) + rng.integers(-4, 5, one.shape), 0, 255).astype(np.uint8)
    assert (fingerprint(one) ^ fingerprint(noisy)).bit_count() <= 4
    assert (fingerprint(one) ^ fingerprint(two)).bit_count() > 10


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(run folder, plan) of a synthesis whose gates refuse near-duplicates alone."""
    store = Store(tmp_path_factory.mktemp("synthesis") / "run")
    store.write_table("embeddings/part-000000000.parquet", embeddings_table(3))
    slots = slot_plan()
    run_rounds(store, slots, ONLY_DUPLICATES)
    store.write_bytes("run.json", b'{"job": "synthesis", "digests": {"a": "1"}}')
    return store, slots


def test_refused_slots_are_drawn_again_and_accepted_ones_are_not(finished):
    store, slots = finished
    verdicts = store.read_folder("verdicts", VERDICTS).to_pylist()
    by_slot: dict[tuple[int, int], list[tuple[int, bool]]] = {}
    for row in verdicts:
        by_slot.setdefault((row["person"], row["slot"]), []).append((row["round"], row["accepted"]))
    assert len(by_slot) == slots.wanted
    for rounds in by_slot.values():
        ordered = [accepted for _, accepted in sorted(rounds)]
        assert ordered[:-1] == [False] * (len(ordered) - 1)
        assert ordered[-1] or len(ordered) == slots.rounds
    assert len({row["sample_id"] for row in verdicts}) == len(verdicts)
    assert any(len(rounds) > 1 for rounds in by_slot.values())


def test_accepted_pictures_of_a_person_differ(finished):
    store, _ = finished
    verdicts = store.read_folder("verdicts", VERDICTS).to_pylist()
    for person in range(3):
        marks = [r["fingerprint"] for r in verdicts if r["accepted"] and r["person"] == person]
        pairs = itertools.combinations(marks, 2)
        assert min((a ^ b).bit_count() for a, b in pairs) > ONLY_DUPLICATES.duplicate_bits


def test_refusals_are_rejects_with_their_reason(finished):
    store, _ = finished
    refused = store.read_folder("rejects", REJECTS).to_pylist()
    verdicts = store.read_folder("verdicts", VERDICTS).to_pylist()
    assert {row["key"] for row in refused} == {
        row["sample_id"] for row in verdicts if not row["accepted"]
    }
    assert {(row["stage"], row["reason"]) for row in refused} == {("verdicts", "duplicate")}


def test_the_report_counts_what_the_verdicts_say(finished):
    store, slots = finished
    report = write_synthesis_report(store, slots)
    verdicts = store.read_folder("verdicts", VERDICTS).to_pylist()
    assert report.accepted == sum(row["accepted"] for row in verdicts)
    assert (report.drawn, report.wanted) == (len(verdicts), 12)
    assert report.reasons == {"duplicate": len(verdicts) - report.accepted}


@pytest.mark.parametrize("refused", [False, True])
def test_an_export_holds_accepted_or_refused_pictures(finished, tmp_path, refused):
    import pyarrow.parquet as pq

    store, _ = finished
    export_run(store, Store(tmp_path), refused=refused)
    table = pq.read_table(tmp_path / "part-000000.parquet")
    verdicts = store.read_folder("verdicts", VERDICTS).to_pylist()
    wanted = {row["sample_id"] for row in verdicts if row["accepted"] != refused}
    assert set(table["sample_id"].to_pylist()) == wanted
    assert ("reason" in table.column_names) == refused


@pytest.mark.parametrize("units", [1, 3, 6, 8])
def test_a_stopped_synthesis_ends_as_an_undisturbed_one(finished, tmp_path, units):
    whole, slots = finished
    store = Store(tmp_path)
    store.write_table("embeddings/part-000000000.parquet", embeddings_table(3))
    run_rounds(store, slots, ONLY_DUPLICATES, stop_after=units)
    run_rounds(store, slots, ONLY_DUPLICATES)
    for folder, schema in (("verdicts", VERDICTS), ("images", IMAGES)):
        tables = [
            place.read_folder(folder, schema).sort_by("sample_id") for place in (whole, store)
        ]
        if folder == "images":
            tables = [table.drop_columns(["seconds"]) for table in tables]
        assert tables[0].equals(tables[1])
