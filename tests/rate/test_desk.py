"""Raters come and go: nobody sees an image twice, no name is in two pages, and nothing that was said is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.rate.conftest import ROWS, make_manifest, new_id, stars
from tglo.data.manifest import Manifest, read_manifest
from tglo.rate import desk as desks
from tglo.rate.desk import Desk, NameTaken
from tglo.rate.events import Again, Event, Skip, Undo
from tglo.rate.folder import check_book, distinct_rows, folder_of

Make = Callable[..., Desk]
ONE, TWO = "session-one", "session-two"


class Page:
    """A page as it behaves: it has some rows ready, rates the first, and fills up."""

    def __init__(self, desk: Desk, name: str, session: str | None = None, **options: Any) -> None:
        self.desk, self.name, self.session = desk, name, session or new_id()
        self.seen: list[str] = []
        self.ready = desk.enter(name, self.session, **options)["rows"]

    def rate(self, given: int = 3) -> dict[str, Any]:
        row = self.ready.pop(0)
        self.seen.append(row["sample"])
        answer = self.say(stars(self.desk.manifest, row["row"], given, self.name))
        self.ready += answer.get("rows", [])
        return answer

    def say(self, *events: Event) -> dict[str, Any]:
        holding = [row["sample"] for row in self.ready]
        return self.desk.record(self.name, self.session, events, holding)


def test_each_image_is_shown_once_and_the_next_is_ready(make_desk: Make) -> None:
    page = Page(make_desk(), "Ann")
    for number in range(ROWS):
        left = ROWS - number
        assert len(page.ready) == min(desks.READY, left)
        answer = page.rate()
        assert (answer["rated"], answer["left"]) == (number + 1, left - 1)
    assert len(set(page.seen)) == ROWS and not page.ready


def test_a_rater_goes_on_where_they_stopped(make_desk: Make) -> None:
    page = Page(make_desk(), "Ann")
    first = [page.rate(given) for given in (1, 2, 3)][-1]["saved"][0]
    upcoming = [row["sample"] for row in page.ready]
    answer = make_desk().enter("ann", TWO)
    assert answer["name"] == "Ann" and answer["rated"] == 3
    assert [row["sample"] for row in answer["rows"]] == upcoming
    assert [step["stars"] for step in answer["steps"]] == [1, 2, 3]
    assert answer["steps"][-1]["id"] == first
    assert "<script>alert(" in answer["rows"][0]["prompt"] and not answer["rows"][0]["video"]


def test_an_undone_image_comes_back(make_desk: Make) -> None:
    page = Page(make_desk(), "Ann")
    saved = page.rate()["saved"][0]
    answer = page.say(Undo(id=new_id(), of=saved))
    assert answer["rated"] == 0 and answer["left"] == ROWS
    first = make_desk().enter("Ann", TWO)["rows"][0]
    assert first["sample"] == page.seen[0]


def test_skipped_images_come_when_they_are_asked_for(make_desk: Make) -> None:
    desk = make_desk()
    page = Page(desk, "Ann")
    passed = page.ready.pop(0)
    answer = page.say(Skip(id=new_id(), sample=passed["sample"]))
    assert (answer["skipped"], answer["left"]) == (1, ROWS - 1)
    page.ready += answer["rows"]
    while page.ready:
        page.rate()
    assert passed["sample"] not in page.seen
    assert page.say(Again(id=new_id()))["rows"][0]["sample"] == passed["sample"]


def test_a_name_is_in_one_page_at_a_time(make_desk: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = make_desk()
    first = Page(desk, "Ann", ONE)
    with pytest.raises(NameTaken, match="Ann is rating in another window"):
        desk.enter("ANN", TWO)
    assert desk.enter("Ann", ONE)["rows"]  # the page was loaded again
    second = Page(desk, "Ann", TWO, take_over=True)
    last = first.rate(5)
    assert last["saved"] and last["taken"] and "rows" not in last
    assert desk.book.rater("Ann").rated == 1
    assert second.rate()["rated"] == 1 and second.seen == first.seen  # the last word counts
    assert second.rate()["rated"] == 2
    desk.leave("Ann", ONE)
    with pytest.raises(NameTaken):
        desk.enter("Ann", ONE)
    desk.leave("Ann", TWO)
    assert desk.enter("Ann", ONE)["rated"] == 2
    monkeypatch.setattr(desks, "GONE_AFTER", 0.0)
    assert desk.enter("Ann", TWO)["rated"] == 2


def test_what_is_sent_again_is_logged_once(make_desk: Make) -> None:
    desk = make_desk()
    page = Page(desk, "Ann")
    event = stars(desk.manifest, page.ready.pop(0)["row"], 4)
    for _ in range(3):
        assert page.say(event, event)["saved"] == [event.id] * 2
    assert make_desk().log.events[0].id == event.id and len(make_desk().log.events) == 1
    assert make_desk().log.events[0].rater == "Ann" and make_desk().log.events[0].at[:2] == "20"


def test_an_unknown_row_is_refused_alone(make_desk: Make) -> None:
    page = Page(make_desk(), "Ann")
    known, unknown = stars(page.desk.manifest, 0, 4), Skip(id=new_id(), sample="17")
    answer = page.say(known, unknown)
    assert answer["saved"] == [known.id]
    assert "does not have" in answer["refused"][unknown.id]


def test_overlap_shares_images_out(make_desk: Make) -> None:
    desk = make_desk(overlap=1)
    pages = [Page(desk, "Ann"), Page(desk, "Bob")]
    assert not {row["sample"] for row in pages[0].ready} & {row["sample"] for row in pages[1].ready}
    while any(page.ready for page in pages):
        for page in pages:
            if page.ready:
                page.rate()
    assert desk.book.counts.tolist() == [1] * ROWS
    assert Page(desk, "Eve").ready == []


def test_overlap_of_two_of_three(make_desk: Make) -> None:
    desk = make_desk(overlap=2)
    pages = [Page(desk, name) for name in ("Ann", "Bob", "Eve")]
    for _ in range(4):
        for page in pages[:2]:
            page.rate()
    assert sorted(desk.book.counts.tolist()) == [1] * ROWS
    while any(page.ready for page in pages):
        for page in pages:
            if page.ready:
                page.rate()
    assert desk.book.counts.tolist() == [2] * ROWS


def test_added_rows_are_fine_and_removed_ones_are_told(
    make_desk: Make, manifest: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for row in range(3):
        make_desk().record("Ann", ONE, [stars(manifest, row, 5)], [])
    more = distinct_rows(read_manifest(make_manifest(tmp_path / "data", 12), require_scores=False))
    desk = make_desk(rows=more)
    check_book(desk.book, tmp_path)
    assert desk.enter("Ann", ONE)["left"] == 9 and "does not have" not in caplog.text
    with caplog.at_level(logging.WARNING, "tglo"):
        check_book(make_desk(rows=manifest.select([0, 1, 5])).book, tmp_path)
    assert "1 ratings of images that the manifest does not have" in caplog.text
    with pytest.raises(ValueError, match="ratings of another manifest: none of its 3"):
        check_book(make_desk(rows=manifest.select([4, 5])).book, tmp_path)


def test_where_ratings_lie(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    names = {"cats": "cats", "m.csv": "m", "train-*.parquet": "images", "s-{0..9}.tar": "images"}
    for name, stem in names.items():
        assert folder_of(tmp_path / name) == tmp_path / f"{stem}-ratings"
    with pytest.raises(ValueError, match="give --output"):
        folder_of(Path("hf://datasets/ann/cats"))


def test_an_image_of_one_prompt_is_rated_once(manifest: Manifest) -> None:
    scored = replace(manifest.rows[1], score=1.0, line=99)
    twice = manifest.with_rows([*manifest.rows, scored])
    assert [row.line for row in distinct_rows(twice)] == [row.line for row in manifest]
