"""The page in a real browser: it draws, follows a run, answers pointer, keys and sliders, and fits a phone."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.browser import browser  # noqa: F401  (a fixture)
from tests.watch.made import add_samples, append, line, make_run
from tglo.pages.serve import guard, listening
from tglo.train.reports import metrics
from tglo.watch import page as pages
from tglo.watch import runs as runs_of
from tglo.watch.app import Watcher
from tglo.watch.runs import Runs

DRAWN = "html[data-drawn]"


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """open_page(address, width, height) -> a page; whatever it logs as an error fails the test."""
    contexts, errors = [], []

    def opened(address: str, width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("response", lambda r: errors.append(r.url) if r.status >= 400 else None)
        page.goto(address)
        page.wait_for_selector(DRAWN)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """served(folder, ...) -> the address of their page."""
    servers = []
    monkeypatch.setattr(pages, "EVERY", 0.1)

    def start(*places: Path) -> str:
        watcher = Watcher(Runs(places))
        watcher.catch_up()
        bound = listening("127.0.0.1", 0)
        app = guard(watcher.app(), "127.0.0.1", None)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{bound.getsockname()[1]}/"

    yield start
    for server, thread in servers:
        server.should_exit = server.force_exit = True
        thread.join(10)


def until(page: Any, expression: str, seconds: float = 20.0) -> None:
    """Wait for JavaScript that is true. (wait_for_function would need eval, which the page forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def steps_drawn(page: Any, run: int = 0) -> list[float]:
    drawn: list[float] = page.evaluate(f"Array.from(runs[{run}].steps)")
    return drawn


def coloured(page: Any, curve: str) -> int:
    """Pixels of a chart that have the first run's colour."""
    count: int = page.evaluate(
        """(curve) => {
          const canvas = document.querySelector(`[data-curve=${curve}] canvas`);
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let n = 0; n < data.length; n += 4) count += data[n + 3] > 200 && data[n + 2] > data[n] + 80;
          return count;
        }""",
        curve,
    )
    return count


def test_it_follows_a_run(tmp_path: Path, served: Any, open_page: Any) -> None:
    folder = make_run(tmp_path / "run")
    page = open_page(served(folder))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    assert page.get_by_text("No metrics yet: curves appear").is_visible()
    assert page.locator(".word").inner_text() == "waiting"
    append(folder, [line(step) for step in (10, 20, 30)])
    until(page, "runs[0].steps.length === 3")
    assert page.locator(".word").inner_text() == "running"
    assert page.locator(".chart:visible").count() == 8 and coloured(page, "loss") > 100
    assert page.get_by_text("Positives and negatives drift apart").is_visible()
    append(folder, [line(40, r_negative=-9.0), line(50, r_negative=-30.0)])
    until(page, "runs[0].steps.length === 5")
    page.get_by_text("r of negatives runs away").wait_for()
    assert any("/data?have=0.0.1.3." in url for url in asked)  # it says what it has
    metrics.MetricsFile(folder / "metrics.jsonl", 20)  # resumed
    until(page, "runs[0].steps.length === 2")
    assert steps_drawn(page) == [10, 20]
    page.get_by_text("metrics.jsonl went back from step 50 to 20").wait_for()
    shutil.rmtree(folder)
    page.get_by_text("The folder is gone").wait_for()
    assert steps_drawn(page) == [10, 20]


def test_pointer_keys_log_scale_and_smoothing(tmp_path: Path, served: Any, open_page: Any) -> None:
    for name, level in (("one", 2.0), ("two", 40.0)):
        lines = [line(10 * n, loss=level + n % 2) for n in range(1, 41)]
        make_run(tmp_path / name, lines)
    page = open_page(served(tmp_path))
    chart = page.locator("[data-curve=loss]")
    chart.locator("canvas").hover(position={"x": 200, "y": 50})
    told = chart.locator(".tip").inner_text().split("\n")
    assert told[0].startswith("step ") and told[1::2] == ["one", "two"]
    assert told[2] in ("2", "3") and told[4] in ("40", "41")
    assert page.locator(".cursor:visible").count() == 8  # at the same step everywhere
    page.wait_for_timeout(300)  # a refresh later
    assert chart.locator(".tip").is_visible()
    chart.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    step = int(told[0].split()[1])
    assert chart.locator(".tip").inner_text().startswith(f"step {step + 10}")
    log = chart.get_by_role("button", name="logarithmic scale of loss")
    log.click()
    assert log.get_attribute("aria-pressed") == "true"
    assert (
        page.evaluate("charts[0].y(4) - charts[0].y(8) - charts[0].y(8) + charts[0].y(16)") < 0.01
    )
    page.locator("#smoothing").fill("0.9")
    assert page.locator("#smoothed").inner_text() == "0.9"
    spread = "(values) => Math.max(...values) - Math.min(...values)"
    assert page.evaluate(f"({spread})(charts[0].shown[0].smooth.slice(20))") < 0.3
    page.locator('[data-run="1"]').uncheck()
    assert page.evaluate("charts[0].shown.map((line) => line.run.name)") == ["one"]
    assert "one loss 2" in (chart.locator("canvas").get_attribute("aria-label") or "")
    page.wait_for_timeout(300)  # a refresh later
    assert not page.locator('[data-run="1"]').is_checked()
    assert page.evaluate("document.activeElement.dataset.run") == "1"


def test_the_slider_goes_through_the_validation_images(
    tmp_path: Path, served: Any, open_page: Any
) -> None:
    for name in ("one", "two"):
        folder = make_run(
            tmp_path / name,
            [line(10)],
            output={"validation_prompts": ["<b>a</b> temple", "a flower"]},
        )
        for step in (100, 200):
            add_samples(folder, step)
    page = open_page(served(tmp_path))
    images = page.locator("#samples img")
    until(
        page, "[...document.querySelectorAll('#samples img')].every((i) => i.naturalWidth === 16)"
    )
    assert images.count() == 4 and page.locator("#shown").inner_text() == "200 (2 of 2)"
    assert page.locator(".prompt h3").all_inner_texts() == ["<b>a</b> temple", "a flower"]
    assert images.nth(1).get_attribute("alt") == "two at step 200: <b>a</b> temple"
    page.locator("#step").press("ArrowLeft")
    assert page.locator("#shown").inner_text() == "100 (1 of 2)"
    assert "step-00000100/000.png" in (images.nth(0).get_attribute("src") or "")
    add_samples(tmp_path / "one", 300)
    until(page, "stepsOfSamples.length === 3")
    assert page.locator("#shown").inner_text() == "100 (1 of 3)"  # it stays where it was put
    page.locator("#step").press("End")
    alts = [image.get_attribute("alt") for image in images.all()]
    assert alts[:2] == ["one at step 300: <b>a</b> temple", "two at step 200: <b>a</b> temple"]
    page.locator('[data-run="1"]').uncheck()
    assert (
        images.count() == 2
        and page.locator("#samples figcaption").nth(1).inner_text() == "a flower"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_without_a_server_on_a_phone(scheme: str, tmp_path: Path, open_page: Any) -> None:
    name = "a-run-with-a-name-that-is-much-longer-than-the-width-of-a-phone-in-any-hand"
    append_to = make_run(
        tmp_path / name, [line(n, loss=50.0 if n == 777 else 2.0) for n in range(1, 2001)]
    )
    make_run(tmp_path / "other", [line(10)])
    add_samples(append_to, 100)
    runs = Runs([tmp_path])
    runs.poll()
    pages.write_page(runs, tmp_path / "page.html")
    page = open_page(f"file://{tmp_path}/page.html", 390, 844, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("charts[0].high") > 50  # the spike is in its band
    spike = "spikes(...[1, 2].map((part) => charts[0].shown[0].bins[part].map(charts[0].y)))"
    assert page.evaluate(f"{spike}.map((n) => runs[0].steps[n])") == [784]  # the bin of 777
    assert page.get_by_text("as of 20").is_visible() and page.locator("#samples img").count() == 2
    assert page.evaluate("document.querySelector('#samples img').naturalWidth") == 16
    touched = page.locator("[data-curve=loss]")
    touched.locator("canvas").click(position={"x": 300, "y": 60})
    box = touched.locator(".tip").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert page.locator("h1").count() == 1 and page.locator("img:not([alt])").count() == 0


def test_a_run_that_is_waited_for_comes_and_the_title_counts(
    tmp_path: Path, served: Any, open_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_of, "_LOOK_AGAIN", 0.0)
    page = open_page(served(tmp_path / "first", tmp_path / "second"))
    assert page.title() == page.locator("h1").inner_text() == "No training runs"
    waiting = f"There is no run at {tmp_path}/first, {tmp_path}/second yet: this page waits for it."
    assert page.locator("#awaited").inner_text() == waiting
    make_run(tmp_path / "first", [line(10)])
    until(page, "document.querySelector('h1').textContent === 'first'")
    assert (
        page.title() == "first"
        and "at " + str(tmp_path / "second") in page.locator("#awaited").inner_text()
    )
    make_run(tmp_path / "second", [line(10)])
    until(page, "document.querySelector('h1').textContent === '2 training runs'")
    assert page.title() == "2 training runs" and page.locator("#awaited").is_hidden()


def test_when_the_server_has_ended(tmp_path: Path, served: Any, browser: Any) -> None:
    make_run(tmp_path / "run", [line(10)])
    page = browser.new_page()
    page.goto(served(tmp_path))
    page.route("**/data*", lambda route: route.abort())
    page.get_by_text("no answer from tglo watch: was it ended?").wait_for(timeout=20_000)
    page.unroute("**/data*")
    page.get_by_text("follows the runs; ").wait_for(timeout=20_000)
    page.close()
