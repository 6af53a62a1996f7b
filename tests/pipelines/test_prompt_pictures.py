"""Prompts that begin with a picture: the manifest's columns, the plan, and what actors make."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from eval.places import StorageError
from infinite_id.config import preset
from infinite_id.details_config import DetailsConfig
from pipelines.plan.inputs import load_manifests, styled_texts
from pipelines.plan.made_from import MadeFrom
from pipelines.plan.requests import RequestPlan
from pipelines.plan.weights import run_weights
from pipelines.run.units import committed_units, unit_table
from pipelines.settings import load_config
from pipelines.stages.generation import GenerationActor
from pipelines.tables.manifest import default_styles, read_manifest, write_manifests
from pipelines.tables.pictures import decode_image
from pipelines.tables.prompt_pictures import PictureError, PictureReader, unusable
from pipelines.tables.schemas import IMAGES, PROMPTS, REJECTS, REQUESTS
from pipelines.tables.storage import Store
from tests.pipelines.conftest import small_plan

ASSETS = Path(__file__).parents[1] / "assets"
ROWS = """prompt_id,text,image,mask_image,strength
beach,a {subject} on the beach,scenes/one.png,scenes/mask.png,0.5
snow,a {subject} in the snow,,,
lost,a {subject},scenes/lost.png,,
broken,a {subject},scenes/broken.png,,0.9
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A manifest beside a folder of pictures."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    with Image.open(ASSETS / "person0_0.png") as photo:
        photo.convert("RGB").resize((128, 128)).save(scenes / "one.png")
    mask = Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    mask.save(scenes / "mask.png")
    (scenes / "broken.png").write_bytes(b"no picture")
    path = tmp_path / "prompts.csv"
    path.write_text(ROWS)
    return path


def plan_of(path: Path, method: str = "infinite_id", store: Store | None = None) -> RequestPlan:
    manifests = load_manifests(load_config(prompts=str(path), style_names=["raw_photo"]))
    plan = small_plan(method, ["x"], unit_size=16, steps=4)
    return RequestPlan(
        methods=plan.methods, texts=styled_texts(manifests, store=store),
        subjects=plan.subjects[:2], seeds=[0], settings=plan.settings, unit_size=16,
    )  # fmt: skip


def test_actors_begin_with_the_picture_and_reject_what_cannot_be_used(run_store, prompts) -> None:
    plan = plan_of(prompts)
    GenerationActor(run_store, plan, preset("pocket"), threads=1)(unit_table([0]))
    asked = {row["sample_id"]: row for row in plan.table(0).to_pylist()}
    assert asked[next(iter(asked))]["image"] == str(prompts.parent / "scenes/one.png")
    images = run_store.read_folder("images", IMAGES).to_pylist()
    made = {
        (asked[row["sample_id"]]["prompt_id"], row["identity_id"]): decode_image(row["image"])
        for row in images
    }
    assert sorted(made) == [(p, f"id{n}") for p in ("beach", "snow") for n in (0, 1)]
    with Image.open(prompts.parent / "scenes/one.png") as photo:
        given = np.asarray(photo.resize((64, 64))).astype(float)
    kept = [np.abs(made[one, "id0"][:, 40:] - given[:, 40:]).mean() for one in ("beach", "snow")]
    assert kept[0] < 0.5 * kept[1]
    rejects = run_store.read_folder("rejects", REJECTS).to_pylist()
    told = {asked[row["key"]]["prompt_id"]: (row["reason"], row["message"]) for row in rejects}
    assert set(told) == {"lost", "broken"}
    assert (told["lost"][0], told["broken"][0]) == ("unreachable", "refused")
    assert "image: cannot read" in told["lost"][1]
    assert "scenes/lost.png" in told["lost"][1]
    assert "broken.png cannot be used: the 10 bytes are no picture" in told["broken"][1]


def test_a_file_that_is_replaced_during_a_run_is_not_taken_for_the_old_one(prompts) -> None:
    scenes = prompts.parent / "scenes"
    texts = {text.prompt_id: text.picture for text in plan_of(prompts).texts}
    beach, lost, reader = texts["beach"], texts["lost"], PictureReader()
    assert beach is not None
    assert lost is not None
    shutil.copy(scenes / "one.png", scenes / "lost.png")
    with pytest.raises(PictureError, match=r"lost.png could not be read when the run began"):
        reader.begun(lost, 64, 64)
    reader.begun(beach, 64, 64)
    Image.new("L", (128, 128), 255).save(scenes / "mask.png")
    with pytest.raises(PictureError, match=r"mask_image .*mask.png is another one than when the"):
        PictureReader().begun(beach, 64, 64)
    Image.new("RGB", (128, 128)).save(scenes / "one.png")
    with pytest.raises(PictureError, match=r"^image .*one.png is another one than when the run be"):
        PictureReader().begun(beach, 64, 64)


class _Outage(MemoryFileSystem):
    """A store that is out for some reads."""

    protocol = "outage"
    out = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("outage://", "memory://"))

    def cat_file(self, path: str, *args: object, **values: object) -> bytes:
        if _Outage.out > 0:
            _Outage.out -= 1
            raise OSError("503 Service Unavailable")
        return super().cat_file(path, *args, **values)


def test_an_outage_of_the_store_refuses_no_request(run_store, prompts) -> None:
    fsspec.register_implementation("outage", _Outage, clobber=True)
    _Outage().pipe_file("/one.png", (prompts.parent / "scenes/one.png").read_bytes())
    prompts.write_text("prompt_id,text,image\nbeach,a,outage://one.png\n")
    _Outage.out = 1
    plan = plan_of(prompts)
    assert "unread" not in plan.texts[0].pictures[0]
    actor = GenerationActor(run_store, plan, preset("pocket"), threads=1)
    _Outage.out = 3
    with pytest.raises(StorageError, match=r"cannot read outage://one.png: 503"):
        actor(unit_table([0]))
    assert not committed_units(run_store, "images")
    _Outage.out = 1
    actor(unit_table([0]))
    assert run_store.read_folder("rejects", REJECTS).num_rows == 0
    assert run_store.read_folder("images", IMAGES).num_rows == 2


def test_a_request_is_named_by_what_it_begins_with_and_not_by_where_it_lies(prompts) -> None:
    before = plan_of(prompts, "timed")
    other = prompts.parent / "elsewhere"
    other.mkdir()
    shutil.move(prompts, other / "prompts.csv")
    shutil.move(prompts.parent / "scenes", other / "scenes")
    moved = plan_of(other / "prompts.csv", "timed")
    assert moved.digest == before.digest
    ids = [[row["sample_id"] for row in one.table(0).to_pylist()] for one in (before, moved)]
    assert ids[0] == ids[1]
    Image.new("RGB", (128, 128)).save(other / "scenes/one.png")
    changed = plan_of(other / "prompts.csv", "timed")
    assert changed.digest != before.digest
    new = [row["sample_id"] for row in changed.table(0).to_pylist()]
    assert [old == now for old, now in zip(ids[0], new, strict=True)] == [False] * 2 + [True] * 6
    text = (other / "prompts.csv").read_text().replace("0.5", "0.75")
    (other / "prompts.csv").write_text(text)
    assert plan_of(other / "prompts.csv", "timed").table(0)["sample_id"][0].as_py() not in new


def test_a_run_goes_on_where_a_picture_can_be_read_no_more_or_only_now(run_store, prompts) -> None:
    scenes = prompts.parent / "scenes"
    before = plan_of(prompts, store=run_store)
    (scenes / "mask.png").rename(scenes / "lost.png")
    again = plan_of(prompts, store=run_store)
    assert again.digest == before.digest
    assert again.table(0).equals(before.table(0))
    assert plan_of(prompts).digest != before.digest
    Image.new("RGB", (128, 128)).save(scenes / "one.png")
    assert plan_of(prompts, store=run_store).digest != before.digest


def test_what_check_tells(prompts) -> None:
    texts = styled_texts(load_manifests(load_config(prompts=str(prompts), style_names=["anime"])))
    begun = [(text.picture, None) for text in texts if text.picture is not None]
    told = unusable(begun, PictureReader(), (64, 64), 4)
    assert len(told) == 2
    assert begun[0][0] is not None
    weak = replace(begun[0][0], strength=0.1)
    assert unusable([(weak, None)], PictureReader(), (64, 64), 4) == [
        "strength is 0.1, which leaves none of 4 steps, allowed: 0.25 to 1, or more steps"
    ]
    tall = unusable(begun[:1], PictureReader(), (128, 64), 4)
    assert "one.png: image is 128 x 128 px for a picture of 64 x 128 px" in tall[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,b,,mask.png,", "row 0, column 'mask_image': value is '{tmp}/mask.png' without image"),
        ("a,b,,,0.5", "row 0, column 'strength': value is 0.5 without image, allowed: with image"),
        ("a,b,one.png,,1.5", "row 0, column 'strength': strength is 1.5, allowed: more than 0"),
        ("a,b,one.png,,much", "row 0, column 'strength': value is 'much', allowed: a number"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text(f"prompt_id,text,image,mask_image,strength\n{row}\n")
    with pytest.raises(ValueError) as refused:
        read_manifest("prompts", str(path))
    assert message.format(tmp=tmp_path) in str(refused.value)


@pytest.mark.parametrize("method", ["flux2_klein", "timed"])
def test_methods_that_take_no_picture_are_refused_before_a_run(prompts, method) -> None:
    with pytest.raises(ValueError, match=f"prompt 'beach': image is given to method '{method}'"):
        load_manifests(load_config(prompts=str(prompts), methods=["infinite_id", method]))
    detailed = replace(preset("pocket"), details=DetailsConfig())
    with pytest.raises(ValueError, match=f"details is set and method '{method}' takes no picture"):
        run_weights(detailed, ["infinite_id", method])


def test_a_manifest_written_elsewhere_finds_its_pictures(prompts, tmp_path) -> None:
    table = read_manifest("prompts", str(prompts))
    people = pa.table({"identity_id": ["a"], "photos": [[{"uri": "/a.png", "bytes": None}]]})
    write_manifests(
        str(tmp_path / "out"), identities=people, prompts=table, styles=default_styles()
    )
    again = read_manifest("prompts", str(tmp_path / "out/prompts.parquet"))
    assert again["image"].to_pylist()[0] == str(tmp_path / "scenes/one.png")


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its copy of the prompts has none of the columns."""
    manifests = load_manifests(load_config(identities=str(ASSETS / "person0_0.png")))
    made_from, store = MadeFrom({}, manifests), Store(tmp_path / "run")
    made_from.claim(store, {}, lambda **values: None)
    earlier = store.read_table("manifests/prompts.parquet").select(PROMPTS.names[:3])
    store.write_table("manifests/prompts.parquet", earlier)
    made_from.claim(store, {"made_from": {}}, lambda **values: None)
    old = pa.table({name: pa.nulls(0, REQUESTS.field(name).type) for name in REQUESTS.names[:14]})
    store.write_table("requests/part-0.parquet", old)
    assert store.read_folder("requests", REQUESTS).num_rows == 0
