"""Every page is in the site's navigation, and every link within the repository leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, anchors, links, text_of
from tglo_site import navigation

CHAPTERS = navigation.chapters(text_of("docs/index.md"))


def test_the_first_page_lists_every_page_once() -> None:
    listed = [f"docs/{page}.md" for pages in CHAPTERS.values() for _, page in pages]
    assert sorted([*listed, "docs/index.md"]) == [page for page in PAGES if page[:5] == "docs/"]
    assert list(CHAPTERS)[:2] == ["Start", "Tutorials"] and len(CHAPTERS) == 6


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = Path(page).parent
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (ROOT / folder / target).resolve() if target else ROOT / page
        assert path.exists(), f"{link}: there is no such file"
        assert path.is_relative_to(ROOT)
        if anchor and path.suffix == ".md":
            found = anchors(path.relative_to(ROOT).as_posix())
            assert anchor in found, f"{link}: the page has {sorted(found)}"


def test_links_are_found() -> None:
    assert len(links("docs/training.md")) > 10
    assert "t-beta-and-c-beside-dpos-and-ktos-beta" in anchors("docs/objectives.md")


def test_every_picture_is_shown() -> None:
    shown = {Path(link).name for page in PAGES for link in links(page)}
    assert {path.name for path in DOCS.glob("*.png")} <= shown


def test_links_out_of_the_folder_lead_to_the_repository() -> None:
    text = (
        "[a](../examples/configs) [b](../../CHANGELOG.md#x) [c](../training.md) ![d](../demo.png)"
    )
    made = navigation.with_repository_links(text, "reference/a", ROOT, "https://host/r")
    assert made == text.replace(
        "(../../CHANGELOG.md#x)", "(https://host/r/blob/main/CHANGELOG.md#x)"
    )
    made = navigation.with_repository_links("[a](../examples/configs)", "a", ROOT, "https://host/r")
    assert made == "[a](https://host/r/tree/main/examples/configs)"


def test_links_show_titles_in_place_of_file_names() -> None:
    made = navigation.with_titles("see [flow.md](flow.md#settings), [a](flow.md)", "video", DOCS)
    assert made == "see [Flow-matching models](flow.md#settings), [a](flow.md)"
