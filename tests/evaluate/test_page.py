"""The page of an evaluation from made-up results: what it says, and how it looks in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser import browser  # noqa: F401  (a fixture)
from tests.evaluate.conftest import estimate
from tglo.evaluate.gallery import row_of, thumbnail
from tglo.evaluate.page import page
from tglo.evaluate.results import Results


def test_losses_are_said_in_words_and_everything_is_escaped(content: Results) -> None:
    evil = '</ol><script>alert("x")</script>&'
    content = {evil: content["50%"]}
    images = {"base": Image.new("RGB", (8, 8)), "tgo_1": Image.new("RGB", (500, 300))}
    text = page([evil], content, {evil: [b"p", b"p"]}, {evil: [row_of(evil, images)]})
    assert "<script" not in text and 'alert("x")' not in text
    assert text.count("&lt;script&gt;alert(&#34;x&#34;)") > 9
    losses = text[text.index("Worse than base") : text.index("</section>")]
    assert losses.count("<li>") == 2 and "<strong>tgo_1</strong>" in losses
    assert '<span class="bad">-0.30 [-0.40, -0.20] ▼ worse</span>' in losses
    # A small image as it is, a large one as a thumbnail.
    assert text.count("data:image/jpeg") == 1 and 'class="sharp" alt="base: ' in text


def test_a_page_without_losses_says_so_and_one_of_the_base_alone_does_not(content: Results) -> None:
    for models in content["50%"]["differences"].values():
        for others in models.values():
            others |= {name: estimate(0.5) for name in others}
    arguments = {"50%": [b"p", b"p"]}, {"50%": []}
    assert "No loss against base" in page([], content, *arguments)
    content["50%"]["models"] = {"base": content["50%"]["models"]["base"]}
    alone = page([], content, *arguments)
    assert "loss against" not in alone and "Worse than" not in alone


def test_only_what_is_there_is_explained(content: Results) -> None:
    arguments = {"50%": [b"p", b"p"]}, {"50%": []}
    text = page([], content, *arguments)
    assert "†: the reward" in text and "Diversity is the mean distance" in text
    for entry in content["50%"]["models"].values():
        entry["diversity"] = None
        for score in entry["scores"].values():
            score["trained_on"] = False
    text = page([], content, *arguments)
    assert "†" not in text and "Diversity is" not in text and "Intervals: 95%" in text


def test_a_thumbnail_is_small() -> None:
    noise = Image.effect_noise((2048, 1024), 90).convert("RGB")
    assert len(thumbnail(noise)) < 120_000
    assert thumbnail(noise).startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_in_a_browser(
    content: Results, browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    """Four models with long names and prompts: nothing is loaded or runs, nothing leaves the window."""
    entry = content["50%"]
    long = "a_model_with_a_name_of_some_length"
    for values in [entry["models"], entry["diversity_differences"], *entry["win_rates"].values()]:
        values[long] = values["sft"]
    for values in entry["differences"].values():
        values[long] = values["sft"]
    for values in entry["categories"]["R&D"]["win_rates"].values():
        values[long] = values["sft"]
    images = {name: Image.new("RGB", (400, 300), "red") for name in entry["models"]}
    prompt = "a photograph of a lighthouse in a storm, <i>by night</i>, " * 4 + "unbroken" * 20
    whole = tmp_path / "report.html"
    chart = (Path(__file__).parents[2] / "docs" / "modes.png").read_bytes()
    rows = [row_of(prompt, images, links=dict.fromkeys(images, "images/1.png"))] * 3
    whole.write_text(page(["a fact"], content, {"50%": [chart, chart]}, {"50%": rows}))
    view = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    asked: list[str] = []
    said: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: said.append(message.text))
    view.goto(whole.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [whole.as_uri()]
    assert said == []  # a breach of the policy would be said here
    assert view.evaluate("document.documentElement.scrollWidth") == width
    assert view.evaluate("document.scripts.length") == 0
    assert view.evaluate("[...document.images].every(i => i.alt)")
    assert view.locator("h1").count() == 1
    for loss in view.locator(".against .bad").all():
        assert loss.is_visible() and "▼ worse" in loss.inner_text()
    # The name under each image says whose it is, in reach of the eye.
    for piece in view.locator(".pieces > div").all():
        image, name = piece.locator("img").bounding_box(), piece.locator(".by").bounding_box()
        assert 0 <= name["y"] - image["y"] - image["height"] < 20 and image["width"] > 100
    assert view.locator("figcaption").first.inner_text().startswith("1. a photograph")
    if (
        width == 390
    ):  # on a phone every number has its header beside it, and nothing lies beyond the edge
        beyond = "[...document.querySelectorAll('.scroll')].filter(it => it.scrollWidth > it.clientWidth).length"
        assert view.evaluate(beyond) == 0
        told = view.locator(".cells tbody tr").first.locator("td").nth(1)
        label = told.evaluate("it => getComputedStyle(it, '::before').content")
        assert label == f'"{view.locator(".cells th").nth(1).text_content()}"'
    # A table that is wider than the window keeps its rows' names in sight.
    table = view.locator(".scroll:not(.wide)").first
    table.evaluate("it => { it.scrollLeft = 200 }")
    first = table.locator("td:first-child").first
    assert first.bounding_box()["x"] == pytest.approx(table.bounding_box()["x"], abs=1)
    view.close()
