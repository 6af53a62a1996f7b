"""The page in a real browser against the real service."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from pipelines.serving.callers import Callers
from pipelines.serving.keys import KeyRing, hash_key, new_key
from pipelines.serving.people import People
from tests.pipelines.serving.conftest import portrait

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

MILLISECONDS = 60_000
# What is wider than the window, where nothing scrolls or hides it; the window's own scroll width.
WIDE = """() => [...document.querySelectorAll("body *")].filter((node) => {
  const box = node.getBoundingClientRect();
  return box.right > innerWidth + 0.5 && !node.closest("pre, .hidden, .skip, .boxed");
}).map((node) => node.outerHTML.slice(0, 80)).concat(
  document.documentElement.scrollWidth > innerWidth ? ["the page"] : [])"""
WATCH = """() => {
  window.seen = new Set();
  new MutationObserver(() => document.querySelectorAll(".step").forEach(
    (step) => seen.add(step.textContent))).observe(document.body,
    { subtree: true, childList: true, characterData: true });
}"""

# What each preview looked like when it came, and the addresses that were let go.
WATCH_PREVIEWS = """() => {
  Object.assign(window, { previews: [], freed: [] });
  const free = URL.revokeObjectURL.bind(URL);
  URL.revokeObjectURL = (url) => { freed.push(url); free(url); };
  new MutationObserver((changes) => changes.forEach(({ target }) => {
    const frame = target.closest(".frame.unfinished");
    if (!frame) return;
    const line = frame.querySelector(".wait");
    const [whole, part] = [frame, line].map((node) => node.getBoundingClientRect());
    const { value, max } = line.querySelector("progress");
    const words = line.querySelector(".step").textContent;
    const seen = { src: target.src, alt: target.alt, words, share: value / max,
      low: part.top > whole.top + whole.height / 2 && part.bottom < whole.bottom + 0.5 };
    previews.push(seen);
    const probe = Object.assign(new Image(), { src: target.src });
    probe.decode().then(() => { seen.width = probe.naturalWidth; });
  })).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["src"] });
}"""


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        yield None
        return
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, live_url, need, request):
    """`opened(width, scheme)`: the page, loaded. At its end no script may have failed, and nothing
    may have been asked of another host."""
    need("browser", browser is not None, "install Debian's package chromium")
    contexts, problems = [], []
    leaving = "stop" if "stopped" in request.node.name else ""

    def asked(sent) -> None:
        if not sent.url.startswith((live_url, "data:", "blob:")):
            problems.append(sent.url)

    def said(message) -> None:
        # Chromium logs each answer of 4xx and 5xx.
        if message.type == "error" and "the server responded with a status" not in message.text:
            problems.append(message.text)

    def failed(sent) -> None:
        # What a click on Stop gives up.
        if "generate" in sent.url and not leaving:
            problems.append(f"{sent.url} {sent.failure}")

    def opened(width: int = 1280, scheme: str = "light", path: str = "") -> Page:
        context = browser.new_context(
            accept_downloads=True,
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", asked)
        page.on("console", said)
        page.on("requestfailed", failed)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(live_url + path)
        page.locator("[data-sample]").first.wait_for(state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def photo(*people: int) -> dict:
    """A file of one picture with these people side by side."""
    portraits = [Image.open(io.BytesIO(portrait(person))) for person in people]
    width, height = portraits[0].size
    sheet = Image.new("RGB", (width * len(people), height), "grey")
    for number, one in enumerate(portraits):
        sheet.paste(one, (number * width, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return {"name": "it's me.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def choose(page: Page, name: str, picker: int = 0) -> None:
    person = page.locator(".person").nth(picker)
    person.locator(f"[data-sample={name}]").click()
    person.get_by_text("Face found").wait_for()


def make(page: Page, pictures: int, steps: int = 1) -> None:
    """Presses the button; returns once the newest run has all its pictures and scores."""
    page.locator("#steps").fill(str(steps))
    page.locator("#make").click()
    expect(page.locator("#status")).to_have_text(
        f"Done: {pictures} of {pictures}.", timeout=MILLISECONDS
    )
    assert page.locator(".run").first.locator(".scores").count() == pictures


def test_a_photo_becomes_pictures_side_by_side_with_scores(opened):
    page = opened()
    page.locator("[type=file]").first.set_input_files(photo(0))
    page.locator(".person").get_by_text("Face found").wait_for()
    frame, box = (page.locator(part).bounding_box() for part in (".boxed", ".box"))
    assert frame["x"] <= box["x"] < box["x"] + box["width"] <= frame["x"] + frame["width"]
    assert box["height"] > frame["height"] / 4
    assert page.locator(".crop").evaluate("image => image.naturalWidth") == 112
    for method in page.locator("[name=method]").all():
        method.check()
    page.locator("#style").select_option("oil_painting")
    page.evaluate(WATCH)
    make(page, 2, steps=3)
    assert page.evaluate("[...seen]").count("Step 2 of 3") == 1
    assert page.locator(".run h3").all_inner_texts() == ["Infinite-ID", "Base model, text only"]
    assert page.locator(".run .soft").first.inner_text() == "Oil painting · seed 0 · 3 steps"
    left, right = (cell.bounding_box() for cell in page.locator(".frame img").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert page.locator(".frame img").first.evaluate("image => image.naturalWidth") == 64
    values = page.locator(".value").all_inner_texts()
    assert len(values) == 4
    assert all(re.fullmatch(r"-?\d\.\d\d|no face", value) for value in values)
    with page.expect_download() as saved:
        page.locator(".below").first.get_by_text("Save").click()
    assert saved.value.suggested_filename == "infinite_id-oil_painting-0.png"
    assert b"trainedAlgorithmicMedia" in Path(saved.value.path()).read_bytes()


def test_previews_show_above_their_step_until_the_picture_is_there(opened):
    page = opened()
    choose(page, "person-1")
    page.evaluate(WATCH_PREVIEWS)
    make(page, 1, steps=10)
    page.wait_for_function("previews.every((one) => one.width)")
    seen = page.evaluate("previews")
    # Those of steps 2, 4, 6 and 8; each comes just before its step is told.
    assert [one["words"] for one in seen] == [f"Step {step} of 10" for step in (1, 3, 5, 7)]
    assert [one["share"] for one in seen] == [0.1, 0.3, 0.5, 0.7]
    assert all(one["low"] and one["width"] == 64 and one["alt"] == "" for one in seen)
    # Another one each time; the one before is let go.
    addresses = {one["src"] for one in seen}
    assert len(addresses) == 4
    assert set(page.evaluate("freed")) == addresses
    assert page.locator(".frame.unfinished, .frame .wait").count() == 0
    image = page.locator(".frame img")
    assert image.get_attribute("alt") == "Infinite-ID, AI-generated"
    assert image.get_attribute("src") not in addresses


def test_a_dropped_file_is_taken(opened):
    page = opened()
    page.evaluate(
        """async (bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
          document.querySelector(".drop").dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        list(photo(1)["buffer"]),
    )
    page.locator(".person").get_by_text("Face found").wait_for()


def test_errors_are_the_sentences_of_the_service(opened, live_url):
    page = opened()
    page.locator("#make").click()
    expect(page.locator("#order-error")).to_have_text("Person: choose a photo or a sample first.")
    empty = {"name": "grey.png", "mimeType": "image/png", "buffer": grey()}
    page.locator("[type=file]").first.set_input_files(empty)
    expect(page.locator(".person .error").first).to_have_text(
        re.compile(r"^The photo cannot be used: no face.*\.$"), timeout=MILLISECONDS
    )
    choose(page, "person-1")
    # It is mended, and says so no more.
    expect(page.locator("#order-error")).to_be_hidden()
    page.locator("#prompt").fill("word " * 190)
    page.locator("#make").click()
    allowed = "at most 64 with begin and end"
    sentence = re.compile(rf"^prompt is .* tokens long, allowed: {allowed}\.$")
    expect(page.locator("#order-error")).to_have_text(sentence, timeout=MILLISECONDS)
    expect(page.locator(".run .error")).to_have_text(sentence)


def grey() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), "grey").save(buffer, "PNG")
    return buffer.getvalue()


def test_one_of_several_faces_can_be_chosen(opened):
    page = opened()
    page.locator("[type=file]").first.set_input_files(photo(0, 1))
    expect(page.locator(".which p")).to_have_text(
        "The photo shows 2 people. Click the one you mean."
    )
    assert page.locator(".which button.box").count() == 2
    page.locator(".which button.box").nth(1).click()
    page.locator(".person").get_by_text("Face found").wait_for()
    assert page.locator(".which").first.is_hidden()
    frame, box = (page.locator(part).bounding_box() for part in (".card .boxed", ".card .box"))
    assert box["x"] > frame["x"] + frame["width"] / 2
    # A wide photo is as wide in the card as it is.
    sides = page.locator(".card .boxed img").bounding_box()
    assert sides["width"] / sides["height"] == pytest.approx(2, rel=0.02)


def test_everything_works_by_keyboard(opened):
    page = opened()
    focus = "document.activeElement"

    def tab_to(test: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"{focus}.matches({test!r})"):
                assert page.evaluate(f"{focus}.matches(':focus-visible')")
                return
        raise AssertionError(f"{test} is not reached with Tab")

    tab_to("[name=mode]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    tab_to("[type=file]")
    tab_to("[data-sample]")
    page.keyboard.press("Enter")
    page.locator(".person").get_by_text("Face found").wait_for()
    assert page.evaluate(f"{focus}.textContent") == "Change"
    tab_to("#prompt")
    page.keyboard.press("Control+a")
    page.keyboard.type("a person")
    tab_to("#steps")
    page.keyboard.press("Home")
    tab_to("#make")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Done: 1 of 1.", timeout=MILLISECONDS)
    assert page.evaluate(f"{focus}.id") == "make"
    tab_to(".code summary")
    page.keyboard.press("Enter")
    tab_to(".snippet button")
    page.keyboard.press("Enter")
    expect(page.locator(".snippet [role=status]").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").startswith("SERVER='http://127.0.0.1:")


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "dark"), (390, "light"), (768, "dark"), (1920, "light")]
)
def test_blends_and_style_sheets_fit_and_can_be_read(opened, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("innerWidth") == width
    assert page.evaluate(WIDE) == []
    choose(page, "person-2")
    page.get_by_label("Blend", exact=True).check()
    assert page.locator("[name=method][value=text_only]").is_hidden()
    choose(page, "person-4", picker=1)
    page.locator("#count").fill("3")
    make(page, 3)
    slider = page.get_by_label("From person A to person B")
    shown = page.locator(".cell:not(.off) img")
    middle = shown.get_attribute("src")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "0 % A, 100 % B"
    assert shown.count() == 1
    assert shown.get_attribute("src") != middle
    page.get_by_label("Style sheet", exact=True).check()
    make(page, 8)
    assert "Watercolour" in page.locator(".run").first.locator(".label").all_inner_texts()
    assert page.evaluate(WIDE) == []
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    for other in ("light", "dark"):
        page.emulate_media(color_scheme=other)
        assert page.evaluate(WIDE) == []
        assert Axe().run(page).response["violations"] == []


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("language", "command"), [("curl", ["bash", "-euc"]), ("Python", [sys.executable, "-c"])]
)
def test_the_code_of_a_run_makes_the_same_picture(opened, tmp_path, language, command):
    page = opened()
    page.locator("[type=file]").first.set_input_files(photo(0))
    page.locator(".person").get_by_text("Face found").wait_for()
    page.locator("#prompt").fill('a person\'s "red" $HOME `shirt` \\ on the beach')
    page.locator("#count").fill("2")
    make(page, 2, steps=2)
    with page.expect_download() as saved:
        page.locator(".run .below").nth(1).get_by_text("Save").click()
    made = Path(saved.value.path()).read_bytes()
    page.get_by_text("Repeat from code").click()
    page.get_by_role("button", name=f"Copy {language}").click()
    code = page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "it's me.png").write_bytes(portrait(0))
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [*command, code], cwd=tmp_path, env={**os.environ, "PATH": python}, check=True, timeout=120
    )
    again = [path for path in tmp_path.rglob("*.png") if path.name != "it's me.png"]
    assert len(again) == 2
    # Another batch may round a pixel differently.
    assert min(np.abs(pixels(path.read_bytes()) - pixels(made)).max() for path in again) <= 1


def test_a_person_is_put_into_a_picture_and_the_code_does_the_same(opened, tmp_path):
    page = opened()
    choose(page, "person-1")
    page.get_by_text("Begin with a picture").click()
    # Of a service without a ControlNet and without details.
    assert not page.locator("#control").is_visible()
    assert not page.locator("#details").is_visible()
    scene = {**photo(3), "name": "the scene.png"}
    mask = Image.new("L", (256, 256))
    mask.paste(255, (0, 0, 128, 256))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    page.locator("#mask").set_input_files(
        {"name": "mask.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    )
    page.locator("#make").click()
    sentence = "Mask: choose a picture to begin with, too."
    expect(page.locator("#order-error")).to_have_text(sentence)
    page.locator("#image").set_input_files(scene)
    page.locator("#strength").fill("1")
    make(page, 1, steps=3)
    with page.expect_download() as saved:
        page.locator(".run .below").first.get_by_text("Save").click()
    made = pixels(Path(saved.value.path()).read_bytes())
    given = pixels(scene["buffer"]).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    apart = np.abs(made - given).mean(axis=(0, 2))
    assert apart[40:].mean() < 0.5 * apart[:24].mean()
    page.get_by_text("Repeat from code").click()
    page.get_by_role("button", name="Copy curl").click()
    code = page.evaluate("navigator.clipboard.readText()")
    (tmp_path / scene["name"]).write_bytes(scene["buffer"])
    (tmp_path / "mask.png").write_bytes(buffer.getvalue())
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": python}
    subprocess.run(["bash", "-euc", code], cwd=tmp_path, env=environment, check=True, timeout=120)
    (again,) = tmp_path.glob("picture*.png")
    assert np.abs(pixels(again.read_bytes()) - made).max() <= 1
    # A run of an earlier visit has the names alone.
    page.reload()
    page.locator(".run").get_by_text("Use these settings").click()
    told = "Choose again, for this page keeps no picture of yours: the scene.png, mask.png."
    expect(page.locator("#order-error")).to_have_text(told)
    # More of them without the picture would be others.
    choose(page, "person-1")
    page.locator(".run").get_by_text("More like this").click()
    expect(page.locator("#order-error")).to_have_text(told)
    expect(page.locator(".run")).to_have_count(1)
    assert not page.locator("#stop").is_visible()
    # A shared link tells what it cannot hold.
    page.locator(".run").get_by_text("Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("#order-error")).to_have_text(told)
    assert page.locator("#strength").input_value() == "1"


def test_a_service_with_keys_asks_for_one(opened, client, monkeypatch):
    page = opened()
    sesame = new_key()
    # One failure by loading the page, one by a wrong key; then the address is told to wait.
    callers = Callers(KeyRing([hash_key(sesame)]), (), failures_per_minute=2)
    for name, value in vars(callers).items():
        monkeypatch.setattr(client.app.state.callers, name, value)
    page.reload()
    field = page.get_by_label("API key of this service")
    expect(field).to_be_focused()
    for sentence in ("The API key is not known.", re.compile("^Too many requests without a right")):
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("#key-error")).to_have_text(sentence)
    field.fill(sesame)
    field.press("Enter")
    choose(page, "person-1")
    make(page, 1)
    page.get_by_text("Repeat from code").click()
    code = page.locator("[data-code=curl] pre").inner_text()
    assert '-H "Authorization: Bearer $INFINITE_ID_API_KEY"' in code
    assert sesame not in page.content() + page.evaluate("JSON.stringify(localStorage)")


def test_a_person_whom_the_service_forgot_is_embedded_again(opened, client, monkeypatch):
    page = opened()
    choose(page, "person-1")
    monkeypatch.setattr(client.app.state.service.state, "people", People(3600, 10))
    make(page, 1)


def test_a_full_service_is_asked_again(opened):
    page = opened()
    choose(page, "person-1")
    times = []

    def full_once(route) -> None:
        times.append(page.evaluate("performance.now()"))
        if len(times) > 1:
            route.continue_()
            return
        body = '{"error": {"code": "overloaded", "message": "Too many pictures wait already."}}'
        route.fulfill(status=503, headers={"Retry-After": "1"}, body=body)

    page.route("**/v1/generate", full_once)
    make(page, 1)
    assert times[1] - times[0] >= 1000


def test_work_can_be_stopped(opened):
    page = opened()
    choose(page, "person-1")
    page.locator("#steps").fill("100")
    page.locator("#make").click()
    page.locator(".frame.unfinished img").wait_for()
    expect(page.locator(".step")).to_have_text(re.compile("^Step .* of 100$"))
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator("#order-error")).to_have_text(
        "Pictures are being made: wait for them, or stop."
    )
    page.locator("#stop").click()
    expect(page.locator(".run .error")).to_have_text("Stopped.")
    # An unfinished picture is not left behind as if it were one.
    expect(page.locator(".frame img")).to_be_hidden()
    expect(page.locator("#make")).to_be_focused()


def test_dark_and_light_can_be_chosen_and_stay(opened):
    page = opened(scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.get_by_role("button", name="Switch to light colours").click()
    light = page.evaluate(colour)
    assert light != dark
    page.reload()
    page.get_by_role("button", name="Switch to dark colours").wait_for()
    assert page.evaluate(colour) == light


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_the_page_may_load_nothing_from_elsewhere(client, path):
    policy = client.get(path).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")


def test_two_people_stand_in_one_picture(opened, tmp_path):
    page = opened(390)
    choose(page, "person-2")
    page.get_by_label("Together", exact=True).check()
    assert page.locator(".person legend").all_inner_texts() == [
        "Person on the left",
        "Person on the right",
    ]
    assert page.locator("#together-note").is_visible()
    page.get_by_role("button", name="Two people").click()
    page.locator("#make").click()
    expect(page.locator("#order-error")).to_contain_text("Person on the right: choose a photo")
    choose(page, "person-4", picker=1)
    make(page, 1, steps=2)
    told = page.locator(".run .scores dt").all_inner_texts()
    assert told == ["Left looks like the photo", "Right looks like the photo", "Follows the prompt"]
    assert page.locator(".run .who img").count() == 2
    assert page.evaluate(WIDE) == []
    assert Axe().run(page).response["violations"] == []
    with page.expect_download() as saved:
        page.locator(".run .below").get_by_text("Save").click()
    made = pixels(Path(saved.value.path()).read_bytes())
    page.get_by_text("Repeat from code").click()
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, command in (("curl", ["bash", "-euc"]), ("Python", [sys.executable, "-c"])):
        page.get_by_role("button", name=f"Copy {language}").click()
        code = page.evaluate("navigator.clipboard.readText()")
        folder = tmp_path / language
        folder.mkdir()
        subprocess.run(
            [*command, code], cwd=folder, env={**os.environ, "PATH": python}, check=True,
            timeout=120,
        )  # fmt: skip
        (again,) = folder.rglob("*.png")
        assert np.abs(pixels(again.read_bytes()) - made).max() <= 1
    page.reload()
    page.locator(".run .scores").wait_for()
    assert page.locator(".run .scores dt").all_inner_texts() == told
