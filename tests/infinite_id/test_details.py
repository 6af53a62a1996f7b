"""Small faces made again, with real faces found by the real detector."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from infinite_id import Identity, InfiniteIDPipeline
from infinite_id.config import preset
from infinite_id.details import _box, _cuts, _size, detailed, with_details
from infinite_id.details_config import DetailsConfig
from infinite_id.faces.detection import Detection, find_faces
from infinite_id.faces.loading import embedded_faces
from infinite_id.generator import InfiniteIdGenerator
from infinite_id.init_image import first_step, init_image
from infinite_id.methods import load_generators
from infinite_id.types import GeneratedImage, GenerationRequest, IdentityGroup

SAMPLES = Path(__file__).parents[2] / "infinite_id" / "assets" / "samples"
SMALL = DetailsConfig(share=0.6, margin=0.5)
HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))


def photo(number: int, side: int) -> Image.Image:
    with Image.open(SAMPLES / f"person-{number}.png") as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def scene(*places: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """128 px with photos of (person, side, x, y) in it."""
    picture = Image.new("RGB", (128, 128), (90, 120, 90))
    for number, side, x, y in places:
        picture.paste(photo(number, side), (x, y))
    return np.asarray(picture)


ONE = scene((1, 48, 30, 40))
TWO = scene((1, 40, 2, 30), (2, 40, 76, 30))


def request(**values: Any) -> GenerationRequest:
    given: dict[str, Any] = {
        "sample_id": "s", "identity_id": "ada", "method": "infinite_id", "prompt": "a woman",
        "negative_prompt": "", "style": "", "seed": 5, "height": 128, "width": 128,
        "num_inference_steps": 4, "guidance_scale": 1.5,
    }  # fmt: skip
    return GenerationRequest(**(given | values))


@pytest.fixture(scope="module")
def pipe() -> InfiniteIDPipeline:
    made = InfiniteIDPipeline.from_pretrained("pocket").to("cpu")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def people(pipe: InfiniteIDPipeline) -> dict[str, Identity]:
    return {
        name: pipe.identity(SAMPLES / f"person-{number}.png", name=name)
        for number, name in ((1, "ada"), (2, "bob"))
    }


@pytest.fixture(scope="module")
def made_by(pipe: InfiniteIDPipeline) -> InfiniteIdGenerator:
    made = load_generators(["infinite_id"], preset("pocket"), base=pipe.base)["infinite_id"]
    assert isinstance(made, InfiniteIdGenerator)
    return made


def found(picture: NDArray[np.uint8], asked: GenerationRequest, config: DetailsConfig = SMALL):
    made = GeneratedImage("s", picture, 0.0)
    return _cuts(0, asked, made, embedded_faces(), config, (64, 64))


def test_the_face_is_made_again_and_the_rest_stays(made_by: Any, people: Any) -> None:
    made = GeneratedImage("s", ONE, 1.0)
    (again,) = with_details(made_by, [request()], [made], people, SMALL)
    (cut,) = found(ONE, request())
    # At the size that the model was trained on, not at the picture's.
    assert _size(made_by.base, 128, 128) == _size(made_by.base, 64, 64) == (64, 64)
    assert _size(made_by.base, 256, 64) == (128, 32)
    assert (cut.request.height, cut.request.width) == (64, 64)
    x0, y0, x1, y1 = cut.box
    inside = np.zeros((128, 128), bool)
    inside[y0:y1, x0:x1] = True
    changed = np.abs(again.image.astype(int) - ONE).max(axis=2)
    assert again.details == 1
    assert again.seconds > 1.0
    assert changed[~inside].max() == 0
    # It fades in from the border of the cut-out.
    assert changed[y0 + 8 : y1 - 8, x0 + 8 : x1 - 8].mean() > 2
    assert changed[y0, x0:x1].mean() < 0.5 * changed[inside].mean() + 1


def test_faces_of_several_people_are_denoised_together_and_alike_alone(
    made_by: Any, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = scene((2, 52, 10, 20))
    requests = [request(), request(identity_id="bob", seed=6), request(), request()]
    made = [GeneratedImage("s", one, 0.0) for one in (ONE, other, scene(), scene())]
    rows: list[int] = []
    handle = made_by.base.unet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(args[0].shape[0]), with_kwargs=True
    )
    together = with_details(made_by, requests, made, people, SMALL)
    # One step at strength 0.4 of 4, of two texts and two people, with guidance.
    assert rows == [2 * (2 + 2)]
    # As many rows as the two pictures had, which may have shared a text.
    with_details(made_by, requests[:2], made[:2], people, SMALL)
    handle.remove()
    assert rows[1:] == [2 * (1 + 1)] * 2
    assert [one.details for one in together] == [1, 1, 0, 0]
    for number in range(4):
        (alone,) = with_details(
            made_by, requests[number : number + 1], made[number : number + 1], people, SMALL
        )
        assert np.abs(alone.image.astype(int) - together[number].image).max() <= 1


def test_who_is_made_again() -> None:
    """Of one person the largest face, of a group one in each region, and nobody's by a mask."""
    bystander = scene((1, 48, 0, 40), (2, 36, 80, 40))
    (cut,) = found(bystander, request())
    assert (cut.box[0] + cut.box[2]) / 2 < 64
    group = IdentityGroup(("ada", "bob"), HALVES)
    both = found(TWO, request(identity_id="g", group=group))
    assert {cut.request.identity_id: cut.box[0] < 40 for cut in both} == {"ada": True, "bob": False}
    assert all(cut.request.group is None for cut in both)
    assert all(cut.request.init_image is not None for cut in both)
    one = IdentityGroup(("ada",), ((0.0, 0.0, 0.5, 1.0),))
    assert len(found(TWO, request(identity_id="g", group=one))) == 1
    kept = np.zeros((128, 128), np.uint8)
    kept[:, 64:] = 255
    begun = init_image(TWO, kept, 0.5, 128, 128)
    (cut,) = found(TWO, request(init_image=begun))
    assert cut.box[2] > 64
    assert found(ONE, request(), replace(SMALL, share=0.05)) == []
    assert found(ONE, request(), replace(SMALL, least=100.0)) == []
    assert found(scene(), request()) == []


def test_what_a_mask_keeps_is_kept_beside_the_face(made_by: Any, people: Any) -> None:
    anew = np.zeros((128, 128), np.uint8)
    anew[:, :62] = 255
    asked = request(init_image=init_image(ONE, anew, 0.5, 128, 128))
    (cut,) = found(ONE, asked)
    assert cut.box[2] > 70
    (again,) = with_details(made_by, [asked], [GeneratedImage("s", ONE, 0.0)], people, SMALL)
    assert np.array_equal(again.image[:, 62:], ONE[:, 62:])
    assert np.abs(again.image[:, :62].astype(int) - ONE[:, :62]).max() > 5


def test_a_face_beside_it_stays_as_it_was(made_by: Any, people: Any) -> None:
    config = DetailsConfig(share=0.6)
    close = scene((1, 48, 16, 30), (2, 44, 64, 32))
    faces = [one for one, _ in find_faces(close, embedded_faces(), select="all", min_face=8.0)]
    left, right = sorted((one.bbox.astype(int).tolist() for one in faces), key=lambda one: one[0])
    group = IdentityGroup(("ada", "bob"), HALVES)
    only = IdentityGroup(("ada",), HALVES[:1])

    def made(asked: GenerationRequest) -> NDArray[np.uint8]:
        (again,) = with_details(made_by, [asked], [GeneratedImage("s", close, 0.0)], people, config)
        return again.image

    def at(picture: NDArray[np.uint8], box: list[int]) -> NDArray[np.int64]:
        x0, y0, x1, y1 = box
        return picture[y0 : y1 + 1, x0 : x1 + 1].astype(np.int64)

    alone, one = made(request()), made(request(identity_id="g", group=only))
    both = made(request(identity_id="g", group=group))
    (cut,) = found(close, request(), config)
    assert cut.box[2] > right[0] + 8
    for picture in (alone, one):
        assert np.array_equal(at(picture, right), at(close, right))
        assert np.abs(at(picture, left) - at(close, left)).max() > 5
    # The second person's cut-out changes nothing of the first one's face.
    assert np.abs(at(both, left) - at(one, left)).max() <= 1
    assert np.abs(at(both, right) - at(close, right)).max() > 5


def test_one_step_is_taken_however_few_strength_leaves() -> None:
    for steps in (1, 2, 3, 49, 50):
        asked = request(num_inference_steps=steps)
        (cut,) = found(ONE, asked, replace(SMALL, strength=0.001))
        assert cut.request.init_image is not None
        cut.request.init_image.check(64, 64, steps)
        assert steps - first_step(cut.request.init_image, steps) == 1


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (160, 96)])
@pytest.mark.parametrize(
    "face", [(0, 0, 12, 16), (50, 40, 70, 60), (80, 70, 96, 95), (0, 0, 96, 96)]
)
def test_what_is_cut_out_has_the_pictures_proportions_and_lies_inside(size: Any, face: Any) -> None:
    height, width = size
    one = Detection(np.array(face, np.float32), np.zeros((5, 2), np.float32), 1.0)
    x0, y0, x1, y1 = _box(one, height, width, 0.5)
    assert 0 <= x0 <= max(face[0], 0)
    assert min(face[2], width) <= x1 <= width
    assert 0 <= y0 < y1 <= height
    assert abs((x1 - x0) / (y1 - y0) - width / height) < 0.1


def test_the_call_and_the_key(pipe: InfiniteIDPipeline, people: Any) -> None:
    few: dict[str, Any] = {"num_inference_steps": 4, "output_type": "np", "seed": 3}
    config = DetailsConfig(share=1.0, margin=0.2)
    plain = pipe("a woman", [people["ada"], people["bob"]], **few).images
    again = pipe("a woman", [people["ada"], people["bob"]], details=config, **few).images
    assert np.array_equal(plain.shape, again.shape)
    assert np.abs(plain - again).max() > 0.02
    family = replace(preset("pocket"), details=config)
    made_by = load_generators(["infinite_id"], family, base=pipe.base)["infinite_id"]
    asked = request(height=64, width=64, seed=3, prompt="a woman")
    (same,) = made_by.generate([asked], people)
    assert np.abs(same.image / 255 - again[0]).max() * 255 <= 2
    assert same.details == 1
    assert "details" in made_by.revision

    def stop(pipe: Any, step: int, timestep: Any, given: Any) -> Any:
        pipe._interrupt = True
        return given

    # A pass over the faces of a picture that was broken off would be a whole one.
    few["callback_on_step_end"] = stop
    broken = [pipe("a woman", people["ada"], details=on, **few).images for on in (False, config)]
    assert np.array_equal(*broken)
    del few["callback_on_step_end"]
    # During the pass: nothing of it is taken over, and no step follows.
    rows: list[int] = []

    def count(module: Any, args: Any, made: Any) -> None:
        rows.append(len(args[0]))
        pipe._interrupt = len(rows) == 5

    handle = pipe.base.unet.register_forward_hook(count)
    slow = replace(config, strength=1.0)
    ended = pipe("a woman", people["ada"], details=slow, **few).images
    handle.remove()
    assert len(rows) == 5
    plain = pipe("a woman", people["ada"], **few).images
    assert np.array_equal(ended, plain)
    few["output_type"] = "pil"
    told = [
        pipe("a woman", people["ada"], details=on, **few).images[0].provenance.model_revision
        for on in (False, config)
    ]
    assert told[1] == f"{told[0]}+details-{config!r}"
    for values, message in (
        ({"details": 0.4}, "details is a float, allowed: True, False, or a DetailsConfig"),
        ({"details": True, "output_type": "latent"}, "details is set with output_type 'latent'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            pipe("a woman", people["ada"], **{**few, **values})  # type: ignore[arg-type]


def test_what_is_refused() -> None:
    for values, message in (
        ({"share": 0.0}, "details share is 0.0, allowed: more than 0, at most 1"),
        ({"strength": 1.2}, "details strength is 1.2, allowed: more than 0, at most 1"),
        ({"feather": 0.9}, "details feather is 0.9, allowed: 0 to 0.5"),
        ({"margin": -1}, "details margin is -1, allowed: 0 to 4"),
        ({"least": 0}, "details least is 0, allowed: pixels, more than 0"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            DetailsConfig(**values)  # type: ignore[arg-type]
    timed = load_generators(["timed"], preset("pocket"))["timed"]
    with pytest.raises(ValueError, match="method 'timed' takes no picture to begin with, allowed"):
        detailed(timed, "timed", DetailsConfig())
