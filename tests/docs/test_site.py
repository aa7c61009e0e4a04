"""The site builds without a warning, loads nothing from other hosts, and is searched without a server.

pip install -c constraints.txt ".[docs]"
"""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.browser import browser  # noqa: F401  (a fixture)
from tests.docs.pages import DOCS, PAGES

pytest.importorskip("sphinx", reason='needs the docs extra: pip install ".[docs]" in a checkout')
LOADED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}


class Reader(HTMLParser):
    """What a page loads, what it links to, and the names that it can be entered by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.names |= {found["id"]} if "id" in found else set()
        if tag in LOADED and LOADED[tag] in found:
            self.loaded.append(found[LOADED[tag]])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "sphinx", "-q", "-W", "--keep-going", DOCS, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Reader]:
    return {
        path.relative_to(site).as_posix(): Reader(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
    }


def test_every_page_is_there(pages: dict[str, Reader]) -> None:
    assert {f"{page[5:-3]}.html" for page in PAGES if page.startswith("docs/")} <= set(pages)


def test_nothing_is_loaded_from_other_hosts(site: Path, pages: dict[str, Reader]) -> None:
    for name, page in pages.items():
        assert page.loaded
        for target in page.loaded:
            assert not re.match(r"[a-z]+:|//", target), f"{name} loads {target}"
            assert (site / name).parent.joinpath(target.split("?")[0].split("#")[0]).exists()
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", path.read_text()), path


def test_links_and_anchors(site: Path, pages: dict[str, Reader]) -> None:
    for name, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            path = (site / name).parent.joinpath(target).resolve() if target else site / name
            assert path.exists(), f"{name}: {link}"
            if anchor and path.suffix == ".html":
                assert anchor in pages[path.relative_to(site.resolve()).as_posix()].names, link


def test_what_is_generated(site: Path) -> None:
    def text(page: str) -> str:
        return re.sub(r"<[^>]+>", "", (site / f"reference/{page}.html").read_text())

    assert "--mixture-scale {none,std}" in text("cli") and "tglo sweep" in text("cli")
    assert "optimizer.learning_rate" in text("config")
    assert "policy_pred" in text("python") and "The TGO loss" not in text("cli")
    assert "Needs the model's weights." in (site / "flow.html").read_text()
    assert "holds both as --root (data.root)" in (site / "faq.html").read_text()


def test_search_and_width_in_a_browser(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in (place[5:-3] for place in PAGES if place.startswith("docs/")):
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    page.goto((site / "search.html").as_uri() + "?q=saturated")
    page.wait_for_selector("#search-results li a:has-text('Train')")  # they come one after another
    titles = page.locator("#search-results li a").all_inner_texts()
    assert any("Train" in title for title in titles), titles
    assert all(url.startswith(("file:", "data:")) for url in asked)
    page.close()
