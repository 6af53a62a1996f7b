"""InfiniteIDPipeline on the pocket preset: what goes in, what comes out, what is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from infinite_id import METHODS, PRESETS, Identity, InfiniteIDPipeline, load_generators
from infinite_id.config import FusionConfig, SamplerConfig, preset, profiled
from infinite_id.types import AI_GENERATED, GenerationRequest
from tests.notebooks import own_folder

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "infinite_id" / "assets" / "samples"
PHOTOS = ROOT / "tests" / "assets"
ADA, BOB = SAMPLES / "person-1.png", SAMPLES / "person-2.png"
HALVES = [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]
FEW: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np", "seed": 3}


@pytest.fixture(scope="module")
def pipe() -> InfiniteIDPipeline:
    made = InfiniteIDPipeline.from_pretrained("pocket").to("cpu")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def ada(pipe: InfiniteIDPipeline) -> Identity:
    return pipe.identity(ADA, name="ada", class_word="woman")


def apart(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max() * 255)


def test_names_are_there_and_cost_nothing() -> None:
    program = (
        "import sys, infinite_id\n"
        "infinite_id.METHODS, infinite_id.PRESETS, infinite_id.Identity, infinite_id.__version__\n"
        "assert set(infinite_id.__all__) <= set(dir(infinite_id))\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'diffusers', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert callable(load_generators)
    assert ("infinite_id" in METHODS, "pocket" in PRESETS) == (True, True)


def test_the_eight_lines_write_nothing_but_the_bar(tmp_path: Path) -> None:
    """In a folder with a user's own packages of our packages' names."""
    own_folder(tmp_path)
    program = f"""
from infinite_id import InfiniteIDPipeline

pipe = InfiniteIDPipeline.from_pretrained("pocket").to("cpu")
ada = pipe.identity(["{PHOTOS}/person0_0.png", "{PHOTOS}/person0_1.png"])
images = pipe(
    ["a {{subject}} on the beach", "a {{subject}} in the snow"], identity=[ada, "{BOB}"],
    style="comic_book", identity_scale=0.8, guidance_scale=5.0, seed=7, num_inference_steps=2,
).images
images[0].save("ada.png")
assert [image.size for image in images] == [(64, 64)] * 2
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True,
        timeout=240, env={"PATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout == ""
    assert [line for line in done.stderr.split() if "warn" in line.lower()] == []
    assert all("/2 [" in line for line in done.stderr.splitlines() if line.strip())
    with Image.open(tmp_path / "ada.png") as saved:
        saved.load()
    assert saved.size == (64, 64)
    assert AI_GENERATED.encode() in saved.info["xmp"]
    assert b"a person on the beach, comic" in saved.info["xmp"]


def test_it_is_the_generator_that_the_actors_hold(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    found = pipe("a {subject} in the snow", ada, style="anime", guidance_scale=2.0, **FEW)
    (made,) = load_generators(["infinite_id"], preset("pocket"))["infinite_id"].generate(
        [
            GenerationRequest(
                "id", "ada", "infinite_id", "a woman in the snow, in an anime style",
                "photo, realistic, blurry, deformed", "anime", 3, 64, 64, 2, 2.0,
            )
        ],
        {"ada": ada},
    )  # fmt: skip
    assert apart(found.images[0], made.image / 255) <= 2
    assert found.prompts == ["a woman in the snow, in an anime style"]


def test_a_person_in_every_form_is_the_same_person(
    pipe: InfiniteIDPipeline, ada: Identity, tmp_path: Path
) -> None:
    ada.save(tmp_path / "ada.safetensors")
    picture = Image.open(ADA)
    pixels = np.array(picture.convert("RGB"))
    forms: list[Any] = [
        str(ADA), ADA.read_bytes(), picture, pixels,
        pipe.faces(ADA)[0], [ADA], ada, tmp_path / "ada.safetensors",
        pipe.mix(ada, BOB, weight=0.0), pipe.mix(BOB, ada, weight=np.float32(1.0)),
        pixels.astype(np.float32) / 255, np.array(picture.convert("RGBA")),
    ]  # fmt: skip
    found = pipe("a woman in the snow", forms, **FEW)
    assert found.images.shape == (len(forms), 64, 64, 3)
    assert found.seeds == [3] * len(forms)
    for image in found.images:
        assert apart(image, found.images[0]) <= 2
    names = [one.identity_id if one else None for one in found.identities]
    assert names[0] == "person-1"
    assert names[6:8] == ["ada"] * 2
    assert found.identities[7].class_word == "woman"  # type: ignore[union-attr]


def test_grey_photos_of_every_kind_are_one_person(pipe: InfiniteIDPipeline) -> None:
    grey = Image.open(ADA).convert("L")
    values = np.asarray(grey)
    wide = Image.fromarray(values.astype(np.uint16) * 257)
    forms = [grey, values, values / 255, wide, grey.convert("LA"), np.stack([values] * 3, axis=2)]
    faces = [pipe.identity(form).embedding.face for form in forms]
    for face in faces:
        assert face @ faces[0] > 0.999


def test_several_photos_mixes_and_stacks_differ(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    photos = [PHOTOS / f"person0_{n}.png" for n in range(2)]
    people = [ada, photos, photos[0], pipe.mix(ada, BOB, weight=0.5), pipe.stack(ada, BOB)]
    found = pipe("a {subject} in the snow", people, **FEW)
    flat = [image.ravel() for image in found.images]
    assert min(apart(a, b) for n, a in enumerate(flat) for b in flat[:n]) > 2
    assert len(found.identities[1].images) == 2  # type: ignore[union-attr]
    # People of different class words are persons together.
    assert found.prompts[3:] == ["a person in the snow"] * 2
    # Of two photos and of one.
    uneven = pipe.mix(photos, BOB, weight=0.0)
    assert apart(pipe("a {subject} in the snow", uneven, **FEW).images[0], found.images[1]) <= 2
    mixed = pipe.mix(ada, BOB, photos[0], weight=[0.2, 0.3, 0.5])
    assert mixed.identity_id == "ada:0.2+person-2:0.3+person0_0:0.5"


def test_a_file_whose_name_names_nobody_is_a_person(
    pipe: InfiniteIDPipeline, tmp_path: Path
) -> None:
    # As chat programs name what they save.
    photo = tmp_path / "\u200eIMG 1.png"
    photo.write_bytes(ADA.read_bytes())
    assert pipe.identity(photo).identity_id == "person"


def test_faces_of_a_photo_to_choose_from(pipe: InfiniteIDPipeline) -> None:
    both = Image.new("RGB", (512, 256), "white")
    for number, path in enumerate((ADA, BOB)):
        both.paste(Image.open(path).convert("RGB").resize((256, 256)), (256 * number, 0))
    faces = pipe.faces(both)
    assert len(faces) == 2
    assert faces[0].bbox[2] < 256 < faces[1].bbox[0]
    assert faces[0].aligned.shape == (112, 112, 3)
    with pytest.raises(ValueError, match="photo: 2 faces found, one is allowed; choose one by"):
        pipe.identity(both)
    second = pipe.identity(both, face=1).embedding.face
    np.testing.assert_array_equal(second, pipe.identity(faces[1]).embedding.face)
    assert second @ pipe.identity(BOB).embedding.face > 0.8


def test_lists_are_dealt_out(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    found = pipe(
        ["a man", "a {subject}"], [ada, BOB], style=["sketch", None], guidance_scale=[1.0, 3.0],
        identity_scale=[0.5, 1.5], num_images_per_prompt=2, **FEW,
    )  # fmt: skip
    assert found.prompts == ["a man, pencil sketch"] * 2 + ["a person"] * 2
    assert found.seeds == [3, 4, 3, 4]
    assert [one.identity_id for one in found.identities if one] == ["ada"] * 2 + ["person-2"] * 2
    alone = pipe("a {subject}", BOB, guidance_scale=3.0, identity_scale=1.5, **{**FEW, "seed": 4})
    assert apart(found.images[3], alone.images[0]) <= 2
    other = pipe("a {subject}", BOB, guidance_scale=3.0, **{**FEW, "seed": 4})
    assert apart(other.images, alone.images) > 2


def test_equal_texts_share_a_stream_and_equal_pictures_do_not_repeat(
    pipe: InfiniteIDPipeline, ada: Identity
) -> None:
    rows: list[int] = []
    handle = pipe.base.unet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(args[0].shape[0]), with_kwargs=True
    )
    silent = {key: value for key, value in FEW.items() if key != "seed"}
    shared = pipe("a man", [ada, BOB, SAMPLES / "person-3.png"], **silent)
    handle.remove()
    assert rows == [8, 8]
    assert len(set(shared.seeds)) == 1
    again = pipe("a man", [ada, ada], **silent)
    assert again.seeds[1] == again.seeds[0] + 1
    assert apart(again.images[0], again.images[1]) > 2


def test_seeds_come_from_generators(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    def made(generator: Any) -> Any:
        return pipe("a man", [ada, BOB], generator=generator, num_inference_steps=1)

    one = made(torch.Generator().manual_seed(5))
    assert len(set(one.seeds)) == 2
    assert made(torch.Generator().manual_seed(5)).seeds == one.seeds
    pair = made([torch.Generator().manual_seed(seed) for seed in (5, 6)])
    assert pair.seeds[0] == one.seeds[0]
    torch.manual_seed(1)
    first = pipe("a man", ada, num_inference_steps=1).seeds
    torch.manual_seed(1)
    assert pipe("a man", ada, num_inference_steps=1).seeds == first


def test_output_types(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    made = {
        kind: pipe("a man", [ada, BOB], **{**FEW, "output_type": kind}).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert made["np"].dtype == np.float32
    assert made["pt"].shape == (2, 3, 64, 64)
    assert apart(made["pt"].permute(0, 2, 3, 1), made["np"]) == 0
    assert apart(np.stack([np.asarray(one) for one in made["pil"]]) / 255, made["np"]) < 1e-3
    assert made["latent"].shape == (2, 4, 16, 16)
    assert not made["latent"].is_inference()
    decoded = np.stack(pipe.base.decode(made["latent"])) / 255
    assert apart(decoded, made["np"]) <= 1


def test_scores_of_the_judges(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    made = pipe(["a {subject}", "a {subject}"], [ada, BOB], style=["anime", None], **FEW)
    scores = made.scores()
    # A mix is judged by its weights: nothing of Bob is asked for here.
    alone = pipe("a woman", [ada, pipe.mix(ada, BOB, weight=0.0)], **FEW).scores()
    for name in ("identity_facenet", "identity_sface"):
        assert alone[name][0] == pytest.approx(alone[name][1], abs=0.05)
    assert {"identity_facenet", "text_score", "style_score"} <= set(scores)
    assert all(values.shape == (2,) for values in scores.values())
    assert np.isnan(scores["style_score"]).tolist() == [False, True]
    latent = pipe("a man", ada, **{**FEW, "output_type": "latent"})
    with pytest.raises(ValueError, match="output_type is 'latent', allowed with scores: pil"):
        latent.scores()


def test_each_person_of_a_group_has_scores(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    bob = pipe.identity(BOB)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 32:] = True
    whole, half = pipe.group(ada, bob, regions=HALVES), pipe.group(bob, regions=[mask])
    made = pipe("a {subject}", [whole, ada, half], **FEW)
    seen = made.group_scores()
    assert [len(one) for one in seen] == [2, 0, 1]
    assert [one["number"] for one in seen[0]] == [0, 1]
    assert [one["region"] for one in seen[0]] == [list(box) for box in HALVES]
    assert seen[2][0]["region"] is None
    scores = made.scores()
    # What is said of one person is not said of a group.
    assert np.isnan(scores["identity_facenet"][[0, 2]]).all()
    assert np.isfinite(scores["text_score"]).all()
    with pytest.raises(ValueError, match="output_type is 'latent'"):
        pipe("a man", ada, **{**FEW, "output_type": "latent"}).group_scores()


def test_a_callback_sees_changes_and_ends_denoising(
    pipe: InfiniteIDPipeline, ada: Identity
) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def keep(given: Any, step: int, timestep: Any, values: dict[str, Any]) -> Any:
        assert given is pipe
        seen.append((step, tuple(values["latents"].shape)))
        if step == 1:
            pipe._interrupt = True
        return {"latents": values["latents"] * (0.5 if step == 0 else 1.0)}

    values: dict[str, Any] = {**FEW, "num_inference_steps": 4, "output_type": "latent"}
    changed = pipe("a man", ada, callback_on_step_end=keep, **values)
    seen.clear()

    def in_place(given: Any, step: int, timestep: Any, values: dict[str, Any]) -> None:
        keep(given, step, timestep, values)
        values["latents"].mul_(0.5 if step == 0 else 1.0)

    same = pipe("a man", ada, callback_on_step_end=in_place, **values)
    torch.testing.assert_close(same.images, changed.images)
    assert seen == [(0, (1, 4, 16, 16)), (1, (1, 4, 16, 16))]
    assert pipe.interrupt
    plain = pipe("a man", ada, **values)
    assert not pipe.interrupt
    assert (changed.images - plain.images).abs().max() > 1e-2

    def overflow(given: Any, step: int, timestep: Any, values: dict[str, Any]) -> Any:
        return {"latents": values["latents"] * torch.tensor([1, torch.inf]).view(2, 1, 1, 1)}

    with pytest.warns(RuntimeWarning, match=r"latents of picture 1 hold NaN or infinity in torch"):
        pipe(
            "a man", [ada, BOB], callback_on_step_end=overflow, **{**FEW, "num_inference_steps": 1}
        )


def test_people_and_pictures_print_no_faces(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    made = pipe("a man", [ada, pipe.mix(ada, BOB)], num_inference_steps=1)
    assert repr(ada).startswith("Identity(identity_id='ada', embedding=IdentityEmbedding(revision=")
    for shown in (ada, made, pipe.faces(ADA)):
        assert len(repr(shown)) < 1500


def test_it_moves_by_position_and_by_name(pipe: InfiniteIDPipeline) -> None:
    assert pipe.to(device="cpu", dtype=torch.bfloat16) is pipe
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.bfloat16)
    assert pipe.to("cpu", torch.float32).dtype == torch.float32


def test_whole_numbers_of_every_kind_and_a_generator_a_picture(
    pipe: InfiniteIDPipeline, ada: Identity
) -> None:
    values: dict[str, Any] = {"num_images_per_prompt": np.int64(2), "num_inference_steps": 1}
    seeds = [torch.Generator().manual_seed(number) for number in range(4)]
    found = pipe(["a", "b"], ada, generator=seeds, height=np.int32(48), **values)
    assert [image.size for image in found.images] == [(64, 48)] * 4
    assert len(set(found.seeds)) == 4
    listed = pipe(["a", "b"], ada, seed=[torch.tensor(5), np.uint8(7)], **values)
    assert listed.seeds == [5, 6, 7, 8]


def test_intervals_and_settings_take_effect(ada: Identity) -> None:
    made = InfiniteIDPipeline.from_pretrained(
        "pocket", sampler=SamplerConfig("euler", 4, 2.0), fusion=FusionConfig(identity_scale=0.5)
    )
    made.set_progress_bar_config(disable=True)
    rows: list[int] = []
    made.base.unet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(args[0].shape[0]), with_kwargs=True
    )
    values: dict[str, Any] = {"seed": 3, "output_type": "np"}
    own = made("a man", ada, **values).images
    assert rows == [4] * 4
    rows.clear()
    made("a man", ada, guidance_end=0.5, identity_start=0.5, **values)
    assert rows == [2, 2, 2, 2]
    same = made("a man", ada, identity_scale=0.5, guidance_scale=2.0, **values).images
    assert apart(same, own) == 0
    assert apart(made("a man", ada, identity_scale=1.0, **values).images, own) > 2


@pytest.mark.parametrize(
    "method",
    [name for name, spec in METHODS.items() if "dreambooth" not in name and not spec.whole],
)
def test_every_method_makes_a_picture(pipe: InfiniteIDPipeline, ada: Identity, method: str) -> None:
    found = pipe("a {subject} on the beach", ada, method=method, **{**FEW, "output_type": "pil"})
    assert found.images[0].size == (64, 64)
    if METHODS[method].factory.endswith(":infinite_id"):
        return
    if method in ("photomaker", "timed"):
        neutral = {"identity_scale": 1.0, "identity_start": 0.0, "identity_end": 1.0}
        again = pipe("a {subject} on the beach", ada, method=method, **{**FEW, **neutral})
        assert apart(again.images[0], np.asarray(found.images[0]) / 255) < 1e-3
        with pytest.raises(ValueError, match=r"identity_start is 0\.2, allowed with method"):
            pipe("a {subject}", ada, method=method, identity_start=0.2)


def test_nobody_is_fine_for_the_plain_model(pipe: InfiniteIDPipeline) -> None:
    found = pipe("a {subject}", method="text_only", **FEW)
    assert found.prompts == ["a person"]
    assert found.identities == [None]


def test_slices_offload_and_compilation_change_no_picture(ada: Identity, capfd: Any) -> None:
    made = InfiniteIDPipeline.from_pretrained("pocket")
    made.set_progress_bar_config(disable=True)
    plain = made("a man", [ada, BOB], **FEW).images
    made.enable_vae_slicing()
    made.enable_model_cpu_offload("cpu")
    made.compile(backend="eager")
    assert apart(made("a man", [ada, BOB], **FEW).images, plain) <= 2
    capfd.readouterr()
    half = made.to(torch.bfloat16)("a man", [ada, BOB], **FEW).images
    assert capfd.readouterr().err == ""
    assert made.dtype == torch.bfloat16
    assert apart(half, plain) > 0


def test_groups_in_both_forms_beside_a_person(pipe: InfiniteIDPipeline, ada: Identity) -> None:
    bob = pipe.identity(BOB, name="bob", class_word="man")
    listed = pipe("a {subject}", [[ada, bob], ada], regions=[HALVES, None], **FEW)
    named = pipe("a {subject}", [pipe.group(ada, bob, regions=HALVES), ada], **FEW)
    assert apart(listed.images, named.images) == 0
    assert listed.prompts == ["a woman and a man", "a woman"]
    assert listed.regions == [tuple(HALVES), None]
    assert apart(listed.images[0], listed.images[1]) > 10
    mask = Image.new("L", (64, 64), 255)
    whole = pipe("a {subject}", pipe.group(ada, regions=[mask]), **FEW)
    assert apart(whole.images[0], listed.images[1]) <= 2
    with pytest.raises(ValueError, match=r"list of 2 people without regions, allowed: regions of"):
        pipe("a {subject}", [[ada, bob]], **FEW)


PRESET_NAMES = ", ".join(name for name, one in PRESETS.items() if one.adapter_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"identity": None}, "identity is None, allowed with method 'infinite_id': a photo, an"),
        ({"identity": "no.png"}, "photo 'no.png' cannot be read: No such file or directory"),
        ({"identity": "https://a/b.png"}, "photo is 'https://a/b.png', allowed: a file on this"),
        ({"identity": 3}, "photo is a int, allowed: a path, bytes of a file, a PIL picture, an a"),
        ({"identity": b"text"}, "photo: the 4 bytes are no picture in a known format"),
        ({"identity": [[]]}, "identity has 0 photos, allowed: 1 or more"),
        ({"identity": [ADA, BOB, ADA], "prompt": ["a", "b"]}, "lists have 2 of prompt, 3 of ident"),
        ({"prompt": []}, "prompt is an empty list, allowed: one value or more"),
        ({"prompt": 3}, "prompt is 3, allowed: text, or a list of texts"),
        ({"style": "baroque"}, "style is 'baroque', allowed: raw_photo, anime, comic_book"),
        ({"method": "magic"}, "method is 'magic', allowed: dreambooth"),
        ({"method": "dreambooth"}, "has no LoRAs, allowed: weights with dreambooth"),
        ({"seed": 1.5}, "seed is 1.5, allowed: a whole number"),
        ({"seed": -1}, "seed is -1, allowed: 0 to"),
        ({"generator": 3}, "generator is a int, allowed: torch.Generator, or several"),
        ({"generator": [torch.Generator()] * 2}, "generator is a list of 2, allowed: 1, one a pic"),
        ({"seed": 1, "generator": torch.Generator()}, "seed and generator are both given"),
        ({"guidance_scale": "much"}, "guidance_scale is 'much', allowed: a number"),
        ({"identity_scale": float("nan")}, "identity_scale is nan, allowed: a finite number"),
        ({"guidance_start": 0.8, "guidance_end": 0.2}, "guidance_start is 0.8 and guidance_end 0"),
        ({"identity_start": 1.5}, "identity_start is 1.5 and identity_end 1.0, allowed: 0 <= st"),
        ({"height": 65}, "height is 65, allowed: a multiple of 16"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0, allowed: 1 or more"),
        ({"output_type": "gif"}, "output_type is 'gif', allowed: pil, np, pt, latent"),
        ({"identity": [[ADA, BOB]], "regions": "left"}, "regions is 'left', allowed: 'auto', or a"),
        ({"regions": "auto"}, "regions is 'auto' for an identity of one, allowed: for a list of"),
        ({"identity": [[ADA, BOB]], "regions": [[3, 4]]}, "region is 3, allowed: x0, y0, x1, y1"),
        ({"identity": [[ADA, BOB]], "regions": [[HALVES[0]]]}, "regions are 1, allowed: 2, one a"),
        (
            {"identity": [[ADA, BOB]], "regions": [HALVES], "method": "photomaker"},
            "identity 'person-1 & person-2' is a group, allowed with this method: one person",
        ),
        ({"seed": np.arange(2)}, "seed is array([0, 1]), allowed: a whole number"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5, allowed: a whole number"),
        ({"height": "64"}, "height is '64', allowed: a whole number"),
        ({"identity_end": [1.0]}, "identity_end is [1.0], allowed: a number"),
        ({"style": {}}, "style is {}, allowed: raw_photo, anime"),
        ({"method": ["infinite_id"]}, "method is ['infinite_id'], allowed: one of dreambooth"),
        ({"identity": [ADA, None]}, "identity is None, allowed with method 'infinite_id': a photo"),
        (
            {"identity": np.zeros((64, 64, 5))},
            "photo is an array float64 (64, 64, 5), allowed: (H, ",
        ),
        (
            {"identity": np.full((64, 64, 3), 255.0)},
            "photo is an array float64 (64, 64, 3) with values 255 to 255, allowed of floats",
        ),
        (
            {"identity": np.zeros((64, 64, 3), int)},
            "int64 (64, 64, 3), allowed: uint8, or floats of",
        ),
        ({"callback_on_step_end": 3}, "callback_on_step_end is 3, allowed: a function, or None"),
        (
            {"callback_on_step_end": lambda *given: given[3]["latents"]},
            "callback_on_step_end returned a Tensor, allowed: None, or a dictionary with latents",
        ),
        (
            {"callback_on_step_end": lambda *given: {"prompt_embeds": torch.zeros(1)}},
            "callback_on_step_end returned prompt_embeds as a Tensor, allowed: latents as a tensor",
        ),
        (
            {"callback_on_step_end": lambda *given: {"latents": given[3]["latents"][:, :2]}},
            "latents have the shape (1, 2, 16, 16), allowed: (1, 4, 16, 16)",
        ),
        ({"method": "timed", "output_type": "latent"}, "method is 'timed', which has no latents"),
    ],
)
def test_what_is_refused_in_a_call(
    pipe: InfiniteIDPipeline, ada: Identity, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        pipe(**{"prompt": "a man", "identity": ada, "num_inference_steps": 1, **arguments})
    assert "\n" not in str(caught.value)


def test_an_identity_of_other_encoders_is_refused(
    pipe: InfiniteIDPipeline, ada: Identity, tmp_path: Path
) -> None:
    from dataclasses import replace

    other = replace(ada, embedding=replace(ada.embedding, revision="arcface+vit"))
    other.save(tmp_path / "other.safetensors")
    message = r"was made by the encoders arcface\+vit, allowed here: yunet.*pocket-"
    for given in (other, tmp_path / "other.safetensors"):
        with pytest.raises(ValueError, match=message):
            pipe("a man", given)
    assert Identity.load(tmp_path / "other.safetensors").embedding.revision == "arcface+vit"
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no.safetensors cannot be read"):
        pipe.identity(tmp_path / "no.safetensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained("sdxl"),
            "adapter is None, allowed with base stabilityai/stable-diffusion-xl-base-1.0: "
            f"{PRESET_NAMES}, a file, or hub://OWNER/NAME@REVISION/FILE",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained("a/b", adapter="sdxl"),
            f"adapter is 'sdxl', which has no file, allowed: {PRESET_NAMES}, a file",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained("a/b", adapter="no.bin"),
            "adapter is 'no.bin', allowed: a file, hub://OWNER/NAME@REVISION/FILE, or a preset: ",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained("pocket", revision="main"),
            "revision is 'main', allowed with pocket: None",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained("pocke"),
            "name is 'pocke', allowed: a preset (pocket, sdxl, ",
        ),
        (lambda pipe, ada: InfiniteIDPipeline.from_pretrained(""), "name is '', allowed: a preset"),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(None),  # type: ignore[arg-type]
            "name is None, allowed: a preset",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(ADA, adapter="sdxl_plus_face"),
            "OWNER/NAME of a hub, or a .safetensors file",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(profile=["fast"]),  # type: ignore[arg-type]
            "profile is ['fast'], allowed: full, fast, faster",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(adapter=ADA),
            "person-1.png cannot be read: it holds something else than tensors, or is not whole",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(dtype=torch.int8),
            "dtype is torch.int8, allowed: torch.float32, torch.bfloat16",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(weights={"photo": "x"}),
            "weights has 'photo', allowed: dreambooth, ",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(encoders="arcface"),
            "encoders is 'arcface', allowed: pocket, sdxl, ",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(dtype="float16"),  # type: ignore[arg-type]
            "dtype is 'float16', allowed: torch.float32, torch.bfloat16",
        ),
        (
            lambda pipe, ada: InfiniteIDPipeline.from_pretrained(sampler={"scheduler": "lcm"}),  # type: ignore[arg-type]
            "sampler is a dict, allowed: SamplerConfig",
        ),
        (
            lambda pipe, ada: pipe.to(torch.int8),
            "device is (torch.int8,), which cannot be used here",
        ),
        (lambda pipe, ada: pipe.to("meta"), "device is 'meta', allowed: one that holds weights"),
        (lambda pipe, ada: pipe.to(3.5), "device is 3.5, allowed: a torch device, or a dtype"),
        (lambda pipe, ada: pipe.enable_model_cpu_offload(None), "device is None, which cannot be"),
        (lambda pipe, ada: pipe.faces(None), "photo is a NoneType, allowed: a path, bytes of a"),
        (lambda pipe, ada: pipe.faces(ADA, min_face=[3]), "min_face is [3], allowed: pixels, more"),
        (lambda pipe, ada: ada.save("ada.png"), "path is 'ada.png', allowed: NAME.safetensors"),
        (
            lambda pipe, ada: ada.save("/no/a.safetensors"),
            "identity cannot be written to /no/a.s",
        ),
        (lambda pipe, ada: pipe.mix(ada, BOB, weight="x"), "weight is 'x', allowed: a number"),
        (
            lambda pipe, ada: pipe.identity(ADA, face=True),
            "face is True, allowed: single, largest, or a",
        ),
        (
            lambda pipe, ada: pipe.identity(ADA, face=-1),
            "face is -1, allowed: single, largest, or a",
        ),
        (
            lambda pipe, ada: pipe.identity(ADA, min_face="x"),
            "min_face is 'x', allowed: pixels, more",
        ),
        (
            lambda pipe, ada: pipe.identity(ADA, class_word=""),
            "class_word is '', allowed: a word, su",
        ),
        (lambda pipe, ada: pipe.identity(ADA, name=3), "name is 3, allowed: text without spaces"),
        (lambda pipe, ada: pipe.identity(ADA, name=""), "name is '', allowed: text without"),
        (lambda pipe, ada: pipe.identity(ADA, name="a\nb"), "name is 'a\\nb', allowed: text w"),
        (lambda pipe, ada: pipe.mix(ada), "mix has 1 people and weight 0.5, allowed: two people"),
        (lambda pipe, ada: pipe.mix(ada, ada, weight=[0.5, 0.6]), "weight [0.5, 0.6], allowed"),
        (lambda pipe, ada: pipe.stack(ada), "stack has 1 people, allowed: two or more"),
        (lambda pipe, ada: pipe.identity(ADA, face="all"), "face is 'all', allowed: single, large"),
        (lambda pipe, ada: pipe.identity(pipe.mix(ada, BOB)), "identity is the mix ada:0.5+person"),
    ],
)
def test_what_else_is_refused(
    pipe: InfiniteIDPipeline, ada: Identity, make: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make(pipe, ada)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="only without a GPU")
def test_a_device_that_is_not_there(pipe: InfiniteIDPipeline) -> None:
    for move in (lambda: pipe.to("cuda"), pipe.enable_model_cpu_offload):
        with pytest.raises(ValueError, match=r"device is .*cuda.*, which cannot be used here: "):
            move()


def test_a_profile_sets_the_sampler() -> None:
    made = InfiniteIDPipeline.from_pretrained("pocket", profile="fast")
    assert made.preset.sampler == profiled(preset("pocket"), "fast").sampler
    with pytest.raises(ValueError, match="profile is 'quick', allowed: full, fast, faster"):
        InfiniteIDPipeline.from_pretrained("pocket", profile="quick")
    with pytest.raises(ValueError, match="profile is 'fast' beside a sampler, allowed: one of"):
        InfiniteIDPipeline.from_pretrained("pocket", profile="fast", sampler=SamplerConfig())
