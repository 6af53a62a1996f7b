from __future__ import annotations

import io
import pickle
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from infinite_id.faces.photos import PhotoError, PhotoLimits, decode_photo, photo_pixels

RED = (200, 30, 20)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
JPEG = encoded(Image.fromarray(NOISE), "JPEG")
PNG = encoded(Image.fromarray(NOISE))
WEBP = encoded(Image.fromarray(NOISE), "WEBP")
BROKEN_PNG = PNG[:60] + bytes(64) + PNG[124:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "not_an_image", id="empty"),
        pytest.param(b"Dear Sir or Madam,\n" * 40, "not_an_image", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image", id="postscript"),
        pytest.param(JPEG[: len(JPEG) // 2], "truncated", id="half-jpeg"),
        pytest.param(PNG[: len(PNG) // 2], "truncated", id="half-png"),
        pytest.param(WEBP[: len(WEBP) // 2], "truncated", id="half-webp"),
        pytest.param(BROKEN_PNG, "unreadable", id="broken-png"),
        pytest.param(encoded(red(size=(1, 1))), "too_small", id="1x1"),
        pytest.param(encoded(red(size=(500, 8))), "too_small", id="strip"),
        pytest.param(encoded(red(size=(7100, 7100))), "too_large", id="bomb"),
        pytest.param(encoded(Image.new("1", (20000, 20000))), "too_large", id="pillow-bomb"),
    ],
)
def test_bad_photo_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PhotoError) as caught:
        decode_photo(data)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "CMYK", "I;16", "I", "F"])
def test_rows_are_converted_alike_wherever_a_picture_is_cut(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
    if mode in ("I;16", "I", "F"):
        wide = drawn[..., 0].astype(np.uint16) * 257
        image = Image.fromarray(wide)
        image = image if mode == "I;16" else Image.fromarray(wide.astype(np.int32)).convert(mode)
    else:
        image = Image.fromarray(drawn).convert("P" if mode == "PA" else mode)
        image = image.convert(mode)
    assert image.mode == mode
    whole = photo_pixels(image)
    monkeypatch.setattr("infinite_id.faces.photos._ROWS", 7)
    np.testing.assert_array_equal(photo_pixels(image), whole)
    assert whole.std() > 20


def test_grey_of_16_bits_takes_little_more_memory_than_the_picture() -> None:
    data = encoded(Image.fromarray(np.zeros((4000, 1000), np.uint16)), "PNG")
    tracemalloc.start()
    try:
        made = decode_photo(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * made.nbytes


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        pytest.param(encoded(red()), 0, id="rgb"),
        pytest.param(encoded(red("RGBA")), 0, id="rgba"),
        pytest.param(encoded(red().quantize(4)), 0, id="palette"),
        pytest.param(encoded(red("CMYK"), "JPEG", quality=95), 4, id="cmyk-jpeg"),
        pytest.param(encoded(red(), "WEBP", lossless=True), 0, id="webp"),
        pytest.param(encoded(red(), "TIFF"), 0, id="tiff"),
    ],
)
def test_colour_survives_every_mode(data: bytes, tolerance: int) -> None:
    image = decode_photo(data)
    assert image.dtype == np.uint8
    assert image.shape == (40, 48, 3)
    assert np.abs(image.astype(int) - RED).max() <= tolerance


@pytest.mark.parametrize(
    ("image", "value"),
    [
        pytest.param(Image.new("L", (48, 40), 90), 90, id="grey"),
        pytest.param(Image.new("LA", (48, 40), (90, 255)), 90, id="grey-opaque"),
        pytest.param(Image.new("RGBA", (48, 40), (0, 0, 0, 0)), 255, id="transparent-on-white"),
        pytest.param(Image.new("LA", (48, 40), (0, 0)), 255, id="grey-transparent"),
        pytest.param(
            Image.fromarray(np.full((40, 48), 90 * 257, dtype=np.uint16)), 90, id="16-bit"
        ),
        pytest.param(
            Image.fromarray(np.full((40, 48), 200, dtype=np.uint16)), 1, id="16-bit-almost-black"
        ),
        pytest.param(
            Image.fromarray(np.full((40, 48), 90 / 255, dtype=np.float32)), 90, id="float"
        ),
    ],
)
def test_grey_and_transparency(image: Image.Image, value: int) -> None:
    data = encoded(image, "TIFF" if image.mode == "F" else "PNG")
    assert np.array_equal(decode_photo(data), np.full((40, 48, 3), value))


def test_animation_gives_its_first_frame() -> None:
    frames = [red(), Image.new("RGB", (48, 40), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_photo(data)[0, 0, 0] > 150


@pytest.mark.parametrize(("tag", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tag: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = NOISE[:, :40]
    data = encoded(Image.fromarray(stored), "PNG", exif=exif)
    assert np.array_equal(decode_photo(data), np.rot90(stored, turns))


def test_limit_of_pillow_is_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode_photo(PNG, PhotoLimits(max_pixels=64 * 64))
    assert before == Image.MAX_IMAGE_PIXELS


def test_filters_of_warnings_survive_threads() -> None:
    data = encoded(Image.fromarray(np.tile(NOISE, (16, 16, 1))), "JPEG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        shapes = {image.shape for image in pool.map(decode_photo, [data] * 24)}
    assert shapes == {(1024, 1024, 3)}
    assert list(warnings.filters) == before


@pytest.mark.parametrize("limits", [{"max_pixels": 0}, {"max_pixels": 10**9}, {"min_side": 0}])
def test_limit_out_of_range(limits: dict[str, int]) -> None:
    ((name, value),) = limits.items()
    with pytest.raises(ValueError, match=f"{name} is {value}, allowed: 1 "):
        PhotoLimits(**limits)


def test_one_pixel_over_the_limit() -> None:
    with pytest.raises(PhotoError, match="64 x 64"):
        decode_photo(PNG, PhotoLimits(max_pixels=64 * 64 - 1))


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(PhotoError("too_large", "big")))  # noqa: S301
    assert (error.reason, str(error)) == ("too_large", "big")
