"""The page in a browser: nothing goes wrong, nothing is asked for, and it fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import browser  # noqa: F401  (a fixture)
from tglo.data.manifest import read_manifest
from tglo.look import survey
from tglo.look.page import write_page
from tglo.train import DataConfig, TrainConfig


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_the_page_opens(size: tuple[int, int], browser: Any, faulty: Path, tmp_path: Path) -> None:
    manifest = read_manifest(faulty)
    config = TrainConfig(data=DataConfig(baseline="oracle"))
    write_page(tmp_path / "look.html", manifest, survey(manifest, config, is_run=True))
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page, wrong, asked = context.new_page(), [], []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "look.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert not wrong
    assert [url for url in asked if not url.startswith("data:")] == [
        (tmp_path / "look.html").as_uri()
    ]
    assert page.title() == "Look: data.csv"  # no script of a prompt has run
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    loaded = page.evaluate(
        "[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.alt !== '')"
    )
    assert len(loaded) > 12 and all(loaded)
    low = page.evaluate(
        "[...document.querySelectorAll('.mark, .tick')].map(e => e.getBoundingClientRect())"
        ".filter(r => r.left < 0 || r.right > innerWidth).length"
    )
    assert low == 0
    context.close()
