"""Groups through a run: manifests, requests, pictures, scores of each person, rejects."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infinite_id.config import preset
from infinite_id.types import IdentityGroup
from pipelines.benchmark import _people
from pipelines.plan.inputs import embedded_subjects, load_manifests
from pipelines.plan.made_from import MadeFrom
from pipelines.plan.requests import RequestPlan, Subject, people_of, request_from_row, request_row
from pipelines.run.units import unit_table
from pipelines.settings import BenchmarkConfig
from pipelines.stages.generation import GenerationActor
from pipelines.stages.scoring import ScoringActor
from pipelines.tables.manifest import (
    Manifests,
    default_prompts,
    default_styles,
    kind_of,
    read_manifest,
)
from pipelines.tables.mixes_and_groups import check_groups
from pipelines.tables.pictures import encode_image
from pipelines.tables.schemas import (
    EMBEDDINGS,
    GROUP_SCORES,
    GROUPS,
    IDENTITIES,
    IMAGES,
    MIXES,
    REJECTS,
    REQUESTS,
    scores_schema,
)
from tests.infinite_id.face_photos import PORTRAITS, portraits
from tests.pipelines.conftest import embeddings_table, small_plan
from tests.pipelines.test_plan import make_plan

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
COUPLE = Subject("pair", "woman and a woman", "d0+d1", group_people=("id0", "id1"),
                 group_regions=(LEFT, RIGHT))  # fmt: skip
ROWS = [
    {"group_id": "couple", "people": ["ada", "bob"], "regions": [list(LEFT), list(RIGHT)]},
    {"group_id": "anywhere", "people": ["bob", "ada", "eve"], "regions": None},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "g.csv",
            "group_id,people,regions\n"
            'couple,ada;bob,"0,0,0.5,1; 0.5,0,1,1"\nanywhere,bob; ada; eve,auto\n',
        ),
        ("g.csv", "group_id;people;regions\ncouple;'ada;bob';'0 0 .5 1'\n".replace("'", '"')),
        (
            "g.yaml",
            "- {group_id: couple, people: [ada, bob], regions: [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]}\n"
            "- {group_id: anywhere, people: [bob, ada, eve], regions: auto}\n",
        ),
        (
            "g.jsonl",
            '{"group_id": "couple", "people": ["ada", "bob"], '
            '"regions": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]}\n'
            '{"group_id": "anywhere", "people": ["bob", "ada", "eve"]}\n',
        ),
    ],
)
def test_groups_are_read_as_people_write_them(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    kind, table = kind_of(str(tmp_path / name))
    assert kind == "groups"
    if "anywhere" in text:
        assert table.to_pylist() == ROWS
        pq.write_table(table, tmp_path / "g.parquet")
        assert read_manifest("groups", str(tmp_path / "g.parquet")).equals(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {group_id: g, people: 7}", "row 0, column 'people': value is 7, allowed: identity_ids"),
        ("- {group_id: g, people: [a, 7]}", "column 'people': value is .*allowed: identity_ids as"),
        ("- {group_id: g, people: [a], regions: left}", "'regions': value is 'left', allowed: au"),
        ("- {group_id: g, people: [a], regions: [[0, 1]]}", "'regions': value is .*allowed: auto"),
        ("- {group_id: g, people: [a], region: auto}", "unknown column 'region'"),
        ("- {group_id: g, regions: auto}", "'people': value is None, allowed: identity_ids"),
        ("- {group_id: g, people: [a], regions: [[true, false, 0.5, 1]]}", "'regions': value is"),
        ("- {group_id: g, people: [a], regions: ['0001']}", r"'regions': value is \['0001'\], all"),
        ("- {group_id: g, people: [a], regions: [[0, .nan, 0.5, 1]]}", "value is .*nan.*allowed"),
        ("- {group_id: g, people: [a], regions: '0 0 nan 1'}", "'regions': value is .*allowed: au"),
        ("- {group_id: g, people: [a], regions: [[0, 0, 1, .inf]]}", "value is .*inf.*allowed: au"),
    ],
)
def test_what_is_no_group_is_one_sentence(tmp_path, text, message):
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest("groups", str(tmp_path / "g.yaml"))


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("people", ["a", None], "string"),
        ("people", [1, 2], "int64"),
        ("regions", [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0]], "float64"),
        ("regions", [[0.0, 0.0, 0.5, 1.0], None], "float64"),
        ("regions", [[0.0, 0.0, 0.5, None], [0.5, 0.0, 1.0, 1.0]], "float64"),
        ("regions", [[0.0, 0.0, 0.5, float("nan")], [0.5, 0.0, 1.0, 1.0]], "float64"),
        ("regions", [[True, False, True, True]], "bool"),
    ],
)
def test_such_a_parquet_file_is_named_with_its_row(tmp_path, column, value, kind):
    types = {"people": pa.list_(pa.string()), "regions": pa.list_(pa.list_(pa.float64()))}
    inner = pa.type_for_alias(kind)
    types[column] = pa.list_(inner) if column == "people" else pa.list_(pa.list_(inner))
    row = {"people": ["a", "b"], "regions": None, column: value}
    table = pa.table({"group_id": ["g"], **{n: pa.array([row[n]], of) for n, of in types.items()}})
    pq.write_table(table, tmp_path / "g.parquet")
    with pytest.raises(ValueError, match=rf"g\.parquet,.* column '{column}': .*, allowed: "):
        read_manifest("groups", str(tmp_path / "g.parquet"))


@pytest.mark.parametrize("blank", ["''", "' '", "auto"])
def test_blank_regions_are_none(tmp_path, blank):
    (tmp_path / "g.yaml").write_text(f"- {{group_id: g, people: [a, b], regions: {blank}}}")
    assert read_manifest("groups", str(tmp_path / "g.yaml"))["regions"].to_pylist() == [None]


@pytest.mark.parametrize("weight", ["nan", "inf", None])
def test_a_weight_of_a_mix_is_finite(tmp_path, weight):
    parts = [{"identity_id": who, "weight": weight and float(weight)} for who in "ab"]
    kind = pa.list_(pa.struct([("identity_id", pa.string()), ("weight", pa.float64())]))
    table = pa.table({"mix_id": ["m"], "parts": pa.array([parts], kind), "mode": ["stack"]})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ValueError, match=r"m\.parquet, .*column 'parts': "):
        read_manifest("mixes", str(tmp_path / "m.parquet"))


def test_an_accent_is_a_part_of_its_letter_or_not(tmp_path):
    """As where keys are compared."""
    one, other = "Ren\u00e9e", "Rene\u0301e"
    (tmp_path / "p").mkdir()
    for name in (one, "bob"):
        (tmp_path / "p" / f"{name}.png").write_bytes(encode_image(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "g.yaml").write_text(f"- {{group_id: g, people: ['{other}', bob]}}")
    (tmp_path / "m.yaml").write_text(
        f"- {{mix_id: m, parts: {{'{other}': 0.5, bob: 0.5}}, mode: interpolate}}"
    )
    config = BenchmarkConfig(
        identities=str(tmp_path / "p"), groups=str(tmp_path / "g.yaml"),
        mixes=str(tmp_path / "m.yaml"),
    )  # fmt: skip
    found = load_manifests(config)
    (name,) = set(found.identities["identity_id"].to_pylist()) - {"bob"}
    assert found.groups["people"].to_pylist() == [[name, "bob"]]
    assert [part["identity_id"] for part in found.mixes["parts"].to_pylist()[0]] == [name, "bob"]
    assert found.group_faults == []
    (tmp_path / "g.yaml").write_text(f"- {{group_id: '{other}', people: ['{one}', '{other}']}}")
    groups = read_manifest("groups", str(tmp_path / "g.yaml"))
    with pytest.raises(ValueError, match="twice, allowed: each person once"):
        check_groups(groups, "g.yaml")
    with pytest.raises(ValueError, match="is also one of the identities"):
        load_manifests(config)


BAD = [
    ({"people": ["id0", "zoe"]}, "unknown_person", "the person 'zoe', who is no identity"),
    ({"people": ["id0", "id9"]}, "person_rejected", "'id9', whose photos were rejected"),
    ({"people": []}, "people", "has 0 people, allowed: 1 to 8"),
    ({"people": [f"id{n}" for n in range(9)]}, "people", "has 9 people, allowed: 1 to 8"),
    ({"people": ["id0", "id0"]}, "people", "has the person 'id0' twice"),
    ({"regions": [list(LEFT)]}, "regions", "regions are 1, allowed: 2, one a person"),
    ({"regions": [list(LEFT), [0.2, 0, 0.6, 1]]}, "regions", "share 75% of the smaller one"),
    ({"regions": [list(LEFT), [0.5, 0, 1.2, 1]]}, "regions", "with 0 <= x0 < x1 <= 1"),
]


def test_a_bad_group_is_one_reject_with_its_reason_and_no_more(run_store):
    rows = [{"group_id": "good", "people": ["id0", "id1"], "regions": None}]
    rows += [
        {"group_id": f"bad{n}", "people": ["id0", "id1"], "regions": None, **change}
        for n, (change, _, _) in enumerate(BAD)
    ]
    parts = [{"identity_id": who, "weight": 0.5} for who in ("id0", "id9")]
    mixes = [{"mix_id": "m", "parts": parts, "mode": "interpolate"}]
    people = [{"identity_id": f"id{n}", "photos": []} for n in (0, 1, 2, 9)]
    manifests = Manifests(
        pa.Table.from_pylist(people, schema=IDENTITIES), default_prompts(), default_styles(),
        pa.Table.from_pylist(mixes, schema=MIXES), pa.Table.from_pylist(rows, schema=GROUPS),
    )  # fmt: skip
    told: dict[str, list[str]] = {}
    subjects = embedded_subjects(
        manifests, run_store, lambda stage, reasons: told.update({stage: list(reasons)})
    )
    assert told == {"mixes": ["person_rejected"], "groups": [reason for _, reason, _ in BAD]}
    assert [one.identity_id for one in subjects] == ["id0", "id1", "id2", "good"]
    assert subjects[-1].class_word == "woman and a woman"
    assert subjects[-1].digest == "d0+d1"
    assert _people(subjects, {}) == 3
    # As a benchmark of groups has them.
    assert _people(subjects[-1:], {}) == 2
    rejects = {row["key"]: row for row in run_store.read_folder("rejects", REJECTS).to_pylist()}
    # A mix without one of its people was left out without a word.
    assert (
        rejects.pop("m")["message"] == "mixes: 'm' has the person 'id9', whose photos were rejected"
    )
    for number, (_, reason, message) in enumerate(BAD):
        row = rejects.pop(f"bad{number}")
        assert (row["stage"], row["reason"]) == ("groups", reason)
        assert message in row["message"]
    assert rejects == {}
    # Who is not embedded is known only in the run.
    assert len(manifests.group_faults) == len(BAD) - 1
    with pytest.raises(ValueError, match="row 1: group 'bad0' has the person 'zoe'"):
        check_groups(manifests.groups, "g.csv", {"id0", "id1", "id9"})


def test_a_group_has_a_key_of_its_own_and_belongs_to_the_benchmark(tmp_path):
    people = load_manifests(BenchmarkConfig()).identities["identity_id"].to_pylist()
    text = f"- {{group_id: '{people[0]}', people: ['{people[0]}', '{people[1]}']}}"
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(ValueError, match="is also one of the identities"):
        load_manifests(BenchmarkConfig(groups=str(tmp_path / "g.yaml")))
    (tmp_path / "g.yaml").write_text(text.replace("group_id: '", "group_id: 'both "))
    assert load_manifests(BenchmarkConfig(groups=str(tmp_path / "g.yaml"))).groups.num_rows == 1


def test_a_run_goes_on_with_its_groups_alone(run_store):
    def manifests(*regions: list[float]) -> Manifests:
        row = {"group_id": "pair", "people": ["id0", "id1"], "regions": list(regions)}
        return Manifests(
            IDENTITIES.empty_table(), default_prompts(), default_styles(), MIXES.empty_table(),
            pa.Table.from_pylist([row], schema=GROUPS),
        )  # fmt: skip

    def claim(given: Manifests, record: dict) -> None:
        MadeFrom({}, given).claim(run_store, record, lambda **_: None)

    begun = {"made_from": {}}
    claim(manifests(list(LEFT), list(RIGHT)), {})
    claim(manifests(list(LEFT), list(RIGHT)), begun)
    with pytest.raises(ValueError, match=r"groups, row 0 \('pair'\): 'regions' is another one"):
        claim(manifests(list(RIGHT), list(LEFT)), begun)


def test_a_groups_row_becomes_the_request_that_it_names():
    plan = make_plan()
    row = request_row(plan.methods[0], COUPLE, plan.texts[0], 7, plan.settings)
    assert row["prompt"] == "a woman and a woman smiling, style 0"
    stored = pa.Table.from_pylist([row], schema=REQUESTS).to_pylist()[0]
    assert people_of(stored) == ["id0", "id1"]
    assert request_from_row(stored).group == IdentityGroup(("id0", "id1"), (LEFT, RIGHT))
    auto = request_row(plan.methods[0], replace(COUPLE, group_regions=None), plan.texts[0], 7,
                       plan.settings)  # fmt: skip
    assert request_from_row(auto).group == IdentityGroup(("id0", "id1"))
    turned = replace(COUPLE, group_people=("id1", "id0"))
    other = request_row(plan.methods[0], turned, plan.texts[0], 7, plan.settings)
    assert len({row["sample_id"], auto["sample_id"], other["sample_id"]}) == 3


def test_pictures_of_people_keep_their_names_and_runs_their_plan():
    """As they were before there were groups: runs go on."""
    plan = make_plan()
    assert plan.row(0, 0)["sample_id"] == "cf100a94a15356f45ab8bb722e7440c9"
    assert plan.digest == "130f575df6e5a6e42ad86cc4007804ef"
    plan.subjects.append(COUPLE)
    with_group = plan.digest
    plan.subjects[-1] = replace(COUPLE, group_regions=None)
    assert plan.digest != with_group


def group_plan(*groups: Subject, prompt: str = "two people, a {subject}") -> RequestPlan:
    plan = small_plan("infinite_id", [prompt], unit_size=8)
    return RequestPlan(
        methods=plan.methods, texts=plan.texts, subjects=[*plan.subjects[:1], *groups],
        seeds=[0], settings=plan.settings, unit_size=8,
    )  # fmt: skip


def test_a_group_and_a_person_share_a_unit_and_too_few_faces_are_one_reject(run_store):
    auto = replace(COUPLE, identity_id="auto", group_regions=None)
    plan = group_plan(COUPLE, auto, prompt="a blue wall, a {subject}")
    GenerationActor(run_store, plan, preset("pocket"))(unit_table([0]))
    images = {
        row["identity_id"]: row for row in run_store.read_folder("images", IMAGES).to_pylist()
    }
    assert set(images) == {"id0", "pair"}
    assert images["id0"]["regions"] is None
    assert images["pair"]["regions"] == [list(LEFT), list(RIGHT)]
    assert images["pair"]["consent"] == "id0: form 0; id1: form 1"
    (reject,) = run_store.read_folder("rejects", REJECTS).to_pylist()
    keys = {row["identity_id"]: row["sample_id"] for row in plan.table(0).to_pylist()}
    assert (reject["key"], reject["reason"]) == (keys["auto"], "refused")
    assert "group 'auto' has 2 people and no regions" in reject["message"]


def test_groups_without_a_place_are_left_out_at_once(run_store):
    """Each call finds places with a text stream of its own: the others are made in one more."""
    autos = [replace(COUPLE, identity_id=f"auto{n}", group_regions=None) for n in (0, 1)]
    plan = group_plan(autos[0], COUPLE, autos[1], prompt="a blue wall, a {subject}")
    actor = GenerationActor(run_store, plan, preset("pocket"))
    real, sizes = actor._generators["infinite_id"], []

    class Counted:
        def generate(self, requests, people):
            sizes.append(len(requests))
            return real.generate(requests, people)

    actor._generators["infinite_id"] = Counted()
    actor(unit_table([0]))
    assert sizes == [4, 2]
    images = run_store.read_folder("images", IMAGES)["identity_id"].to_pylist()
    assert images == ["id0", "pair"]
    rejects = run_store.read_folder("rejects", REJECTS).to_pylist()
    assert [row["reason"] for row in rejects] == ["refused", "refused"]
    assert [row["message"].split("'")[1] for row in rejects] == ["auto0", "auto1"]


def test_each_person_of_a_group_has_scores_and_the_group_is_nobody(tmp_path, run_store):
    shown, rows = [], embeddings_table(2).to_pylist()
    for number, row in zip((2, 3), rows, strict=True):
        first, *others = portraits()[PORTRAITS * number : PORTRAITS * (number + 1)]
        shown.append(first)
        row["aligned"] = [encode_image(aligned(one), generated=False) for one in others]
    run_store.write_table(
        "embeddings/part-000000000.parquet", pa.Table.from_pylist(rows, schema=EMBEDDINGS)
    )
    plan = group_plan(COUPLE)
    requests = plan.table(0).to_pylist()
    pictures = [shown[0], np.concatenate(shown, axis=1)]
    swapped = {**requests[1], "sample_id": "swapped"}
    made = [
        {
            **{name: row[name] for name in ("sample_id", "identity_id", "method", "prompt_id",
                                            "style", "seed", "prompt")},
            "image": encode_image(picture, generated=False), "format": "png", "seconds": 1.0,
            "height": picture.shape[0], "width": picture.shape[1], "model_revision": "r",
            "regions": regions, "unit": 0,
        }
        for row, picture, regions in zip(
            [*requests, swapped], [*pictures, np.concatenate(shown[::-1], axis=1)],
            [None, [list(LEFT), list(RIGHT)], [list(LEFT), list(RIGHT)]], strict=True,
        )
    ]  # fmt: skip
    block = pa.Table.from_pylist(
        made, schema=pa.unify_schemas([IMAGES, pa.schema([("unit", pa.int64())])])
    )
    ScoringActor(run_store, plan, ["face_count", "identity_sface"], "pocket")(block)
    schema = scores_schema(["face_count", "identity_sface"])
    scores = run_store.read_folder("scores", schema).to_pylist()
    assert [row["face_count"] for row in scores] == [1, 2, 2]
    assert np.isfinite(scores[0]["identity_sface"])
    assert np.isnan([row["identity_sface"] for row in scores[1:]]).all()
    seen = run_store.read_folder("group_scores", GROUP_SCORES).to_pylist()
    assert [(row["person"], row["number"], row["faces"]) for row in seen] == [
        ("id0", 0, 2), ("id1", 1, 2), ("id0", 0, 2), ("id1", 1, 2),
    ]  # fmt: skip
    assert [row["mixed_up"] for row in seen] == [False, False, True, True]
    assert min(row["group_margin"] for row in seen) > 0.1
    assert seen[0]["identity"] == seen[0]["identity_in_region"]
    assert seen[2]["identity"] > seen[2]["identity_in_region"]
    assert seen[0]["face_in_region"][2] <= 0.5 <= seen[1]["face_in_region"][0]
    assert seen[2]["matched_face"] == seen[3]["face_in_region"]
    assert seen[1]["region"] == list(RIGHT)


def aligned(picture: np.ndarray) -> np.ndarray:
    from infinite_id.faces.detection import find_faces
    from tests.infinite_id.face_photos import embedded

    return find_faces(picture, embedded(), select="largest", sizes=(256, 192, 320))[0][1]


def test_without_groups_no_network_more_is_loaded(tmp_path, run_store):
    plan = SimpleNamespace(subjects=[Subject("id0", "woman", "d0")], texts=[])
    actor = ScoringActor(run_store, plan, ["timed"], "pocket")
    actor.load()
    assert not hasattr(actor._suite._networks, "facenet")
    plan.subjects.append(COUPLE)
    actor = ScoringActor(run_store, plan, ["timed"], "pocket")
    actor.load()
    assert hasattr(actor._suite._networks, "facenet")
