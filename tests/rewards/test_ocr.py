from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tglo.rewards import load_scorer
from tglo.rewards.ocr import plain, quoted, similarity


def distance(a: str, b: str) -> int:
    """Levenshtein's, by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0])
    )


def test_similarity_follows_the_definition():
    words = ["", "a", "cat", "act", "tact", "cart", "xyz", "catcat"]
    for a in words:
        for b in words:
            expected = 1 - distance(a, b) / max(len(a), len(b), 1)
            assert similarity(a, b) == pytest.approx(expected)


def test_quotes():
    assert quoted('a sign "Hello World" and “Good bye”') == "helloworldgoodbye"
    assert quoted("«Été» „Straße“ 「猫」") == "étéstrasse猫"
    assert quoted("the dog's bone, it's 5\"") == quoted('""') == ""
    assert plain("\uff21\uff22 ﬁ\n1") == "abfi1"


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ImportError, match=r'scorer ocr: .*pip install "\.\[ocr\]"'):
        load_scorer("ocr")
    with pytest.raises(ValueError, match="ocr has no files to name"):
        load_scorer("ocr=./x")


def page(*lines: str) -> Image.Image:
    image = Image.new("RGB", (512, 80 + 80 * len(lines)), "white")
    for number, line in enumerate(lines):
        font = ImageFont.load_default(48)
        ImageDraw.Draw(image).text((30, 40 + 80 * number), line, fill="navy", font=font)
    return image


@pytest.fixture(scope="module")
def ocr():
    pytest.importorskip("rapidocr", reason="pip install '.[ocr]'")
    pytest.importorskip("onnxruntime", reason="pip install '.[ocr]'")
    return load_scorer("ocr")


def test_text_that_is_there_partly_there_and_not(ocr):
    images = [
        page("Hello World"),
        page("Hello", "World"),
        page("Hello"),
        page(),
        page("Quite other"),
    ]
    scores = ocr(images, ['a sign that says "Hello world"'] * 5)
    assert scores.dtype == np.float64
    assert scores[:2] == pytest.approx(1.0) and scores[2] == pytest.approx(0.5)
    assert scores[3] == 0.0 and scores[4] < 0.5
    alone = [ocr([image], ['"Hello world"'])[0] for image in images]
    assert scores.tolist() == alone  # a batch of one and of five
    assert ocr([], []).shape == (0,) and "rapidocr 3" in ocr.identity


def test_odd_images_have_no_text(ocr):
    sizes, modes = [(1, 1), (3000, 1), (5, 200)], ("RGB", "L", "RGBA")
    images = [Image.new(mode, size) for size, mode in zip(sizes, modes, strict=True)]
    assert ocr(images, ['"x"'] * len(images)).tolist() == [0.0] * len(images)


def test_a_prompt_without_quotes_is_refused(ocr):
    with pytest.raises(
        ValueError, match="1 of 2 prompts have no text .*such as 'a cat'; score only"
    ):
        ocr([page(), page()], ['"a"', "a cat"])
    with pytest.raises(ValueError, match="1 images but 2 prompts"):
        ocr([page()], ['"a"', '"b"'])
