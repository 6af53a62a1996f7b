"""What the page keeps, shows again and shares: history, example, viewer, zip, retry, links."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from tests.pipelines.serving.test_page_browser import (
    MILLISECONDS,
    WIDE,
    browser,
    choose,
    make,
    opened,
    photo,
)

__all__ = ["browser", "opened"]

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

SHARED = (
    "#mode=pictures&prompt=a+cat&style=anime&seed=41&count=2&steps=3&guidance=2&method=text_only"
)


def test_an_empty_page_shows_a_finished_example_whose_settings_can_be_used(opened):
    page = opened()
    example = page.locator(".example")
    expect(example.locator(".cell .open img")).to_have_count(8)
    for image in example.locator(".cell .open img").all():
        assert image.evaluate("image => image.naturalWidth") == 64
    assert page.evaluate(WIDE) == []
    assert Axe().run(page).response["violations"] == []
    example.get_by_text("Use these settings").click()
    assert page.locator("[name=mode]:checked").input_value() == "sheet"
    expect(page.locator("#make")).to_have_text("Make 8 pictures")


def test_pictures_survive_a_reload_and_can_be_forgotten(opened):
    page = opened()
    page.locator("[type=file]").first.set_input_files([photo(0), photo(0)])
    page.locator(".person").get_by_text("Faces found").wait_for()
    assert page.locator(".crop").count() == 2
    page.locator("#count").fill("2")
    make(page, 2)
    expect(page.locator("#kept")).to_be_visible()
    text = page.locator(".run h2").inner_text()
    page.reload()
    expect(page.locator(".run .open img")).to_have_count(2)
    assert page.locator(".run h2").inner_text() == text
    assert page.locator(".run .value").count() == 4
    assert page.locator(".example").count() == 0
    # The person is not kept: a failed picture could not be made again, but settings can be used.
    page.locator("#prompt").fill("another")
    page.get_by_text("Use these settings").click()
    assert page.locator("#prompt").input_value() == text
    page.get_by_role("button", name="Clear history").click()
    page.get_by_role("dialog").get_by_text("Clear history").click()
    expect(page.locator(".run:not(.example)")).to_have_count(0)
    # As on a first visit, at once and after a reload.
    page.locator(".example").wait_for()
    page.reload()
    page.locator(".example").wait_for()
    assert page.locator(".run").count() == 1


def test_pictures_are_enlarged_and_arrow_keys_go_on(opened):
    page = opened()
    choose(page, "person-1")
    page.locator("#count").fill("3")
    make(page, 3)
    page.locator(".run .open").nth(1).click()
    viewer = page.locator("dialog.viewer")
    words = viewer.locator("p")
    expect(words).to_have_text("Infinite-ID, Seed 1 · 2 of 3")
    page.keyboard.press("ArrowRight")
    expect(words).to_have_text("Infinite-ID, Seed 2 · 3 of 3")
    page.keyboard.press("ArrowRight")
    expect(words).to_have_text("Infinite-ID, Seed 0 · 1 of 3")
    assert viewer.locator("img").bounding_box()["height"] > 400
    with page.expect_download() as saved:
        viewer.get_by_text("Save").click()
    assert saved.value.suggested_filename == "infinite_id-no_style-0.png"
    assert Axe().run(page).response["violations"] == []
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(".run .open").nth(1)).to_be_focused()


def test_all_pictures_are_saved_with_their_settings(opened):
    page = opened()
    choose(page, "person-2")
    page.locator("#style").select_option("sketch")
    page.locator("#count").fill("2")
    make(page, 2)
    with page.expect_download() as saved:
        page.get_by_text("Save all").click()
    with zipfile.ZipFile(saved.value.path()) as archive:
        assert archive.testzip() is None
        names = ["infinite_id-sketch-0.png", "infinite_id-sketch-1.png", "settings.json"]
        assert archive.namelist() == names
        for name in names[:2]:
            assert Image.open(io.BytesIO(archive.read(name))).size == (64, 64)
        told = json.loads(archive.read("settings.json"))
    assert told["settings"]["style"] == "sketch"
    assert [one["seed"] for one in told["pictures"]] == [0, 1]
    assert "sources" not in told["settings"]


def test_more_like_this_makes_other_seeds(opened):
    page = opened()
    choose(page, "person-1")
    page.locator("#style").select_option("anime")
    make(page, 1)
    held = []
    page.route("**/v1/generate", lambda route: held.append(route))
    more = page.locator(".run").get_by_text("More like this")
    more.click()
    while len(held) < 4:
        page.wait_for_timeout(20)
    # Nothing is begun beside them, and the page says so until they are there.
    more.click()
    error = page.locator("#order-error")
    expect(error).to_have_text("Pictures are being made: wait for them, or stop.")
    for one in held:
        one.continue_()
    expect(page.locator("#status")).to_have_text("Done: 4 of 4.", timeout=MILLISECONDS)
    expect(error).to_have_text("")
    assert page.locator(".run:not(.example)").count() == 2
    newest = page.locator(".run").first
    assert newest.locator(".open").count() == 4
    assert newest.locator(".soft").first.inner_text().startswith("Anime")


def test_a_failed_picture_is_tried_again_and_retries_do_not_come_together(opened):
    page = opened()
    choose(page, "person-1")
    times = []

    def answer(route) -> None:
        times.append(page.evaluate("performance.now()"))
        if len(times) <= 4:
            body = '{"error": {"code": "rate_limited", "message": "This key has used it."}}'
            route.fulfill(status=429, headers={"Retry-After": "1"}, body=body)
        elif len(times) == 5:
            body = '{"error": {"code": "generation_failed", "message": "The generation failed."}}'
            route.fulfill(status=500, body=body)
        else:
            route.continue_()

    page.route("**/v1/generate", answer)
    page.locator("#count").fill("4")
    page.locator("#steps").fill("1")
    page.locator("#make").click()
    expect(page.locator("#status")).to_have_text("3 of 4 pictures were made.", timeout=MILLISECONDS)
    assert min(times[4:8]) - max(times[:4]) > 500
    assert max(times[4:8]) - min(times[4:8]) > 20
    page.locator(".run").get_by_role("button", name="Try again").click()
    expect(page.locator("#status")).to_have_text("Done: 1 of 1.", timeout=MILLISECONDS)
    assert page.locator(".run .open").count() == 4


def test_many_pictures_are_asked_for_after_a_question(opened):
    page = opened()
    choose(page, "person-1")
    page.get_by_label("Style sheet", exact=True).check()
    for method in page.locator("[name=method]").all():
        method.check()
    page.locator("#steps").fill("1")
    expect(page.locator("#make")).to_have_text("Make 16 pictures")
    page.evaluate("""() => document.querySelector("[name=method]").closest("fieldset").append(
      Object.assign(document.createElement("input"), {type: "checkbox", name: "method",
        value: "infinite_id", checked: true}))""")
    page.locator("#make").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("This makes 24 pictures")
    question.get_by_text("Cancel").click()
    assert page.locator(".run:not(.example)").count() == 0


def test_a_link_restores_settings_and_holds_no_person(opened):
    page = opened(path=f"/{SHARED}")
    expect(page.locator("#prompt")).to_have_value("a cat")
    values = {name: page.locator(f"#{name}").input_value() for name in ("style", "seed", "steps")}
    assert values == {"style": "anime", "seed": "41", "steps": "3"}
    assert page.locator("[name=method]:checked").input_value() == "text_only"
    assert page.locator("#guidance").input_value() == "2"
    page.locator("[type=file]").first.set_input_files(photo(1))
    page.locator(".person").get_by_text("Face found").wait_for()
    make(page, 2, steps=1)
    page.get_by_text("Copy link").first.click()
    expect(page.locator(".tools [role=status]").first).to_have_text(
        "Copied: the settings, no photo"
    )
    link = page.evaluate("navigator.clipboard.readText()")
    assert "prompt=a+cat" in link
    assert "me.png" not in link


def test_tokens_are_counted_while_typing(opened):
    page = opened()
    counter = page.locator("#tokens")
    expect(counter).to_have_text(re.compile(r"^\d+ of 64 tokens$"))
    page.locator("#prompt").fill("word " * 100)
    expect(counter).to_have_class("over")


def test_no_focus_stop_is_hidden(opened):
    page = opened()
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
          const node = document.activeElement;
          const label = document.querySelector(`label[for="${node.id}"]`);
          const seen = node.matches(".hidden") ? label : node;
          return [node.outerHTML.slice(0, 90), Boolean(seen?.checkVisibility())];
        }""")
        assert found[1], found[0]
