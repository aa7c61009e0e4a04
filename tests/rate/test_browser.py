"""The page in a real browser: keys and fingers, several people, and a server that is killed on the way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.browser import browser  # noqa: F401  (a fixture)
from tests.rate.conftest import ROWS, fill, new_id
from tests.rate.test_app import make_videos
from tglo.data.manifest import read_manifest
from tglo.pages.serve import LOOPBACK, guard, listening
from tglo.rate.app import application
from tglo.rate.book import Book
from tglo.rate.desk import Desk
from tglo.rate.events import Again
from tglo.rate.log import FILE, RatingLog, read_log

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page in a browser profile of its own, and starts rating under a name."""
    contexts, faults = [], list[str]()

    def make(address: str, name: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on(
            "request",
            lambda asked: asked.url.startswith((address, "data:")) or faults.append(asked.url),
        )
        page.goto(address)
        if name:
            start(page, name)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not faults


def start(page: Any, name: str) -> None:
    page.fill("#name", name)
    page.press("#name", "Enter")
    page.wait_for_selector("#desk:not([hidden])")


@contextmanager
def served(manifest: Path, folder: Path, token: str | None = None) -> Iterator[str]:
    """A server in a thread; yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_manifest(manifest, require_scores=False)
    app = guard(application(Desk(rows, RatingLog(folder / FILE))), LOOPBACK, token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    with listening(LOOPBACK, 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        yield f"http://{LOOPBACK}:{bound.getsockname()[1]}/"
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture
def address(path: Path, tmp_path: Path) -> Iterator[str]:
    with served(path, tmp_path) as found:
        yield found


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`tglo rate` in a process of its own, and its address."""
    command = [sys.executable, "-u", "-m", "tglo", "rate", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines = []
            for line in server.stdout:
                lines.append(line)
                if found := re.search(r"http://\S+/", line):
                    break
            else:
                raise AssertionError("".join(lines))
            yield server, found[0]
        finally:
            server.kill()


def shown(page: Any) -> int:
    """The row that a page shows, once a rating would be taken."""
    page.wait_for_selector(".star[aria-disabled=false]")
    found = re.search(r"picture (\d+)", page.inner_text("#prompt"))
    assert found
    return int(found[1])


def expect_said(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('said').textContent.includes(text)", arg=text
    )


def stars_in(folder: Path, manifest: Path, name: str = "Ann") -> list[int]:
    samples = [row.sample_id for row in read_manifest(manifest, require_scores=False)]
    found: list[int] = Book(samples, read_log(folder / FILE).events).rater(name).stars.tolist()
    return found


def test_three_browsers_and_a_killed_server(path: Path, tmp_path: Path, open_page: Open) -> None:
    folder, names = tmp_path / "ratings", ["Ann", "Bob", "Eve"]
    options = [str(path), "--output", str(folder)]
    pressed: dict[tuple[str, int], int] = {}

    def press(name: str) -> None:
        row = shown(pages[name])
        pressed[name, row] = (row + names.index(name)) % 5 + 1
        pages[name].keyboard.press(str(pressed[name, row]))

    with started(*options, "--port", "0") as (server, address):
        pages = {name: open_page(address, name) for name in names}
        for page in pages.values():
            page.wait_for_function("() => ready.length === 4 && ready.every(one => one.loaded)")
        threading.Timer(0.1, server.send_signal, [signal.SIGKILL]).start()
        for name in names * 3:  # without waiting for the server, which dies meanwhile
            press(name)
        server.wait()
        for name in names:
            press(name)
    for name in names:
        expect_said(pages[name], "not saved yet, kept in this browser and sent again")
    safe = len(read_log(folder / FILE).events)
    assert safe < len(pressed) == 12
    pages["Eve"].close()  # she comes again later, in the same browser
    port = address.rpartition(":")[2].strip("/")
    with started(*options, "--port", port) as (_, again):
        assert again == address
        pages["Eve"] = pages["Eve"].context.new_page()
        pages["Eve"].goto(address)
        start(pages["Eve"], "Eve")
        for name in names * 4:
            press(name)
        for name in names:
            pages[name].wait_for_selector("text=All done: 8 rated")
            expect_said(pages[name], "saved")
    events = read_log(folder / FILE).events
    logged = Counter((event.rater, event.sample, getattr(event, "stars", 0)) for event in events)
    samples = [row.sample_id for row in read_manifest(path, require_scores=False)]
    assert len(pressed) == 3 * ROWS
    assert logged == Counter(
        (name, str(samples[row]), stars) for (name, row), stars in pressed.items()
    )


def test_keys(address: str, path: Path, tmp_path: Path, open_page: Open) -> None:
    page = open_page(address, "Ann")
    first = shown(page)
    page.keyboard.press("4")
    expect_said(page, "4 stars, saved")
    second = shown(page)
    page.keyboard.press("Space")
    expect_said(page, "Skipped, saved")
    third = shown(page)
    assert len({first, second, third}) == 3
    for key in ("6", "0", "x", "Control+2", "Alt+3"):
        page.keyboard.press(key)
    assert shown(page) == third
    page.keyboard.press("u")
    expect_said(page, "Undone: you had skipped it, saved")
    assert shown(page) == second
    page.keyboard.press("Backspace")
    expect_said(page, "Undone: you had given 4, saved")
    assert shown(page) == first and page.inner_text(".star.given").startswith("4")
    page.keyboard.down("5")
    page.keyboard.down("5")  # held down: it rates one image
    page.keyboard.up("5")
    assert shown(page) == second
    page.keyboard.press("s")
    expect_said(page, "Skipped, saved")
    page.reload()
    start(page, "ann")
    assert shown(page) == third and page.inner_text("#count") == "2 of 8 (1 skipped)"
    while page.locator("#prompt").is_visible():
        shown(page)
        page.keyboard.press("1")
    page.click("text=Show the skipped ones again")
    assert shown(page) == second
    page.keyboard.press("3")
    page.wait_for_selector("text=All done: 8 rated. Thank you!")
    expect_said(page, "saved")
    given = {first: 5, second: 3}
    assert stars_in(tmp_path, path) == [given.get(row, 1) for row in range(ROWS)]


def test_buttons_by_keyboard_and_pointer(address: str, open_page: Open) -> None:
    page = open_page(address, "Ann")
    first = shown(page)
    page.focus(".star >> nth=2")
    page.keyboard.press("Space")  # on a button it presses it
    expect_said(page, "3 stars, saved")
    assert page.evaluate("document.activeElement.dataset.stars") == "3"
    assert shown(page) != first
    page.click(".star >> nth=0")
    expect_said(page, "1 star, saved")
    shown(page)
    page.keyboard.press("Space")  # after a click it skips
    expect_said(page, "Skipped, saved")


def test_the_next_image_is_there_at_once(address: str, open_page: Open) -> None:
    page = open_page(address, "Ann")
    for _ in range(3):
        shown(page)
        page.wait_for_function("() => ready.length > 1 && ready[1].loaded")
        page.keyboard.press("3")
        assert page.evaluate("ready[0].loaded && stage.firstChild === ready[0].element")


def test_a_phone(path: Path, tmp_path: Path, open_page: Open) -> None:
    path.write_text(path.read_text().replace("picture", "long " * 200 + "W" * 90 + " picture"))
    with served(path, tmp_path) as address:
        page = open_page(address, viewport=PHONE, has_touch=True, is_mobile=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        start(page, "a name of many letters" * 2)
        shown(page)
        boxes = [button.bounding_box() for button in page.locator("#keys button").all()]
        for box in [*boxes, page.locator("#stage img").bounding_box()]:
            assert box["height"] >= 44 and box["width"] >= 44
            assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
            assert box["y"] + box["height"] <= PHONE["height"]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        first = shown(page)
        page.tap(".star >> nth=4")
        expect_said(page, "5 stars, saved")
        page.tap("#undo")
        expect_said(page, "Undone: you had given 5, saved")
        assert shown(page) == first
        page.tap("#skip")
        expect_said(page, "Skipped, saved")


def test_a_name_in_two_pages(address: str, path: Path, tmp_path: Path, open_page: Open) -> None:
    first, second = open_page(address, "Ann"), open_page(address)
    shown(first)
    second.fill("#name", " ann")
    second.press("#name", "Enter")
    second.wait_for_selector("#refused:has-text('Ann is rating in another window')")
    first.keyboard.press("2")
    expect_said(first, "2 stars, saved")
    second.click("#take")
    assert shown(second) != -1 and second.inner_text("#count") == "1 of 8"
    row = shown(first)
    first.keyboard.press("3")
    first.wait_for_selector("#refused:has-text('Everything that you rated here is saved')")
    assert stars_in(tmp_path, path)[row] == 3
    first.click("#take")
    assert first.inner_text("#count") == "2 of 8"


def test_a_full_disk(path: Path, small_disk: Path, open_page: Open) -> None:
    log = RatingLog(small_disk / FILE)
    while log.path.stat().st_size < 3600:  # a full disk is noticed at the next page of 4096 bytes
        log.append([Again(id=new_id(), rater="Bob")])
    log.close()
    with served(path, small_disk) as address:
        page = open_page(address, "Ann")
        first = shown(page)
        page.keyboard.press("2")
        expect_said(page, "2 stars, saved")
        fill(small_disk)
        rows = []
        while "the disk with the ratings is full" not in page.inner_text("#said"):
            assert len(rows) < ROWS - 1
            rows.append(shown(page))
            page.keyboard.press("4")
            page.wait_for_function("() => !sending")
        page.reload()  # what was not saved outlives the page
        start(page, "Ann")
        expect_said(page, "the disk with the ratings is full")
        (small_disk / "filler").unlink()
        page.wait_for_function("() => !unsent.length && ready.length")
        assert shown(page) not in rows
        page.keyboard.press("u")
        expect_said(page, "Undone: you had given 4, saved")
        assert shown(page) == rows[-1]
        given = {first: 2, **dict.fromkeys(rows[:-1], 4)}
        assert stars_in(small_disk, path) == [given.get(row, 0) for row in range(ROWS)]


def test_a_link_with_a_token_is_followed_from_another_site(
    path: Path, tmp_path: Path, open_page: Open
) -> None:
    with served(path, tmp_path, token="a-long-word") as address:
        page = open_page(address)
        assert "it has the token" in page.inner_text("body")
        page.goto("data:text/html,<a href='" + address + "?token=a-long-word'>link</a>")
        page.click("a")
        start(page, "Ann")
        shown(page)
        page.keyboard.press("3")
        expect_said(page, "3 stars, saved")


def test_an_image_that_cannot_be_shown(path: Path, tmp_path: Path, open_page: Open) -> None:
    with served(path, tmp_path) as address:
        for row in range(ROWS):
            (path.parent / f"{row}.png").write_bytes(b"<b>no image</b>")
        page = open_page(address, "Ann")
        page.wait_for_selector("text=This image cannot be shown (cannot be decoded: no known image")
        page.keyboard.press("5")
        assert page.inner_text("#count") == "0 of 8"
        page.keyboard.press("Space")
        expect_said(page, "Skipped, saved")
        assert page.inner_text("#prompt").startswith("<script>alert(")


def test_videos_play(tmp_path: Path, open_page: Open) -> None:
    with served(make_videos(tmp_path / "videos"), tmp_path) as address:
        page = open_page(address, "Ann")
        kinds = {}
        for _ in range(4):
            page.wait_for_selector(".star[aria-disabled=false], #stage p")
            prompt = page.inner_text("#prompt")
            kinds[prompt] = page.evaluate("stage.firstChild.tagName")
            if kinds[prompt] == "VIDEO":
                page.wait_for_function("() => stage.firstChild.currentTime > 0.1")
                page.keyboard.press("p")
                assert page.evaluate("stage.firstChild.paused")
                page.click("video")
                page.wait_for_function("() => !stage.firstChild.paused")
            page.keyboard.press("s")
            page.wait_for_function("text => $('prompt').textContent !== text", arg=prompt)
        assert kinds == {"a": "VIDEO", "b": "IMG", "c": "IMG", "d": "P"}
