"""The server: the page, what is new, validation images, and nothing else; and the page without a server."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.watch.made import add_samples, append, line, make_run
from tglo import cli
from tglo.pages.serve import guard
from tglo.watch import page
from tglo.watch.app import Watcher
from tglo.watch.runs import Runs

HOSTILE = "</script><script>alert(1)</script>"


def client(*places: Path, token: str | None = None) -> TestClient:
    watcher = Watcher(Runs(places))
    watcher.catch_up()
    return TestClient(guard(watcher.app(), "127.0.0.1", token), base_url="http://127.0.0.1:80")


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read


def asked(browser: TestClient, data: dict[str, Any]) -> dict[str, Any]:
    """What watch.js asks for after `data`."""
    have = [
        ".".join(str(n) for n in (r["id"], *(r["curves"][k] for k in ("generation", "width", "complete")), r["mark"]))
        for r in data["runs"]
    ]  # fmt: skip
    answer = browser.get("/data", params={"have": have})
    assert answer.status_code == 200
    read: dict[str, Any] = answer.json()
    return read


def test_the_page_and_what_is_new(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [line(step) for step in range(10, 110, 10)])
    add_samples(folder, 100)
    with client(tmp_path) as browser:
        first = data_of(browser.get("/").text)
        (run,) = first["runs"]
        assert run["name"] == "run" and run["state"] == "running" and run["step"] == 100
        assert run["curves"]["lines"] == 10 and len(run["samples"]) == 2
        assert run["facts"] == ["sdxl", "lora", "tgo", "rate 0.0001", "T 0.03"]
        (same,) = asked(browser, first)["runs"]
        assert same["curves"]["first"] == 10 and "samples" not in same
        append(folder, [line(110)])
        add_samples(folder, 110)
        (new,) = asked(browser, first)["runs"]
        assert new["curves"]["first"] == 10 and new["curves"]["complete"] == 11
        assert len(new["samples"]) == 4
        shutil.rmtree(folder)
        (gone,) = asked(browser, first)["runs"]
        assert gone["state"] == "gone" and gone["curves"]["lines"] == 11


@pytest.mark.parametrize(
    "have", ["", "x", "0", "0.1.2.3", "9.9.9.9.9", f"0.{'9' * 400}.1.1.1", "0.0.1.99999.0"]
)
def test_a_strange_question_gets_everything(have: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", [line(10)])
    with client(tmp_path) as browser:
        (run,) = browser.get("/data", params={"have": have}).json()["runs"]
        assert run["curves"]["complete"] == 1


def test_validation_images_alone_are_served(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [line(10)])
    place = add_samples(folder, 10)
    (place / "000.mp4").write_bytes(b"0123456789")
    (tmp_path / "secret.png").write_bytes(b"secret")
    with client(tmp_path) as browser:
        image = browser.get("/sample/0/step-00000010/001.png?v=1")
        assert image.content == (place / "001.png").read_bytes()
        assert image.headers["content-type"] == "image/png"
        assert "max-age" in image.headers["cache-control"]
        part = browser.get("/sample/0/step-00000010/000.mp4", headers={"range": "bytes=2-4"})
        assert part.status_code == 206 and part.content == b"234"
        for path in (
            "/sample/0/step-00000010/config.json",
            "/sample/0/../run/config.json",
            "/sample/0/step-00000010/..%2f..%2fconfig.json",
            "/sample/0/%2e%2e/config.json",
            "/sample/7/step-00000010/000.png",
            "/config.json",
        ):
            assert browser.get(path).status_code == 404, path
        (place / "001.png").unlink()
        assert browser.get("/sample/0/step-00000010/001.png").status_code == 404


def test_a_page_is_answered_before_all_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("app", "metrics_file"):
        monkeypatch.setattr(f"tglo.watch.{module}.CHUNK", 5000)
    make_run(tmp_path / "run", [line(step) for step in range(1, 101)])
    watcher = Watcher(Runs([tmp_path]))
    with TestClient(watcher.app()) as browser:
        first = data_of(browser.get("/").text)
        assert first["more"] and first["runs"][0]["curves"]["lines"] == 0
        watcher.catch_up()
        then = asked(browser, first)
        assert not then["more"] and then["runs"][0]["curves"]["lines"] == 100
        append(tmp_path / "run", [line(step) for step in range(101, 201)])
        assert asked(browser, then)["more"]  # a little at a time
        while asked(browser, then)["more"]:
            pass
        assert asked(browser, then)["runs"][0]["curves"]["lines"] == 200


def test_a_token_guards_the_page(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [line(10)])
    with client(tmp_path, token="a-long-word") as browser:
        assert browser.get("/").status_code == browser.get("/data").status_code == 403
        assert browser.get("/?token=a-long-word").status_code == 200
        assert browser.get("/data").status_code == 200


def test_prompts_cannot_write_into_the_page(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / f"run {HOSTILE[-9:].replace('/', '')}", [line(10)],
        output={"validation_prompts": [HOSTILE, "\ud800"]},
        model={"path": HOSTILE},
    )  # fmt: skip
    add_samples(folder, 10)
    with client(tmp_path) as browser:
        html = browser.get("/").text
        assert browser.get("/data").json()["runs"][0]["prompts"][0] == HOSTILE
    assert "alert(1)</script>" not in html and html.count("</script>") == 2
    assert data_of(html)["runs"][0]["prompts"][0] == HOSTILE
    assert "script-src 'sha256-" in html.replace("&#39;", "'")


def test_a_page_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "IMAGES", 10)
    folder = make_run(tmp_path / "run", [line(10, loss=float("nan")), line(20)])
    for step in range(10, 210, 10):
        add_samples(folder, step)
    (folder / "samples" / "step-00000200" / "001.png").write_bytes(b"no image")
    assert cli.main(["watch", str(tmp_path), "--output", str(tmp_path / "new" / "page.html")]) == 0
    html = (tmp_path / "new" / "page.html").read_text()
    assert "connect-src" not in html and not re.search(
        r"https?://", html.replace("http://www.w3", "")
    )
    (run,) = data_of(html)["runs"]
    steps = [step for step, *_ in run["samples"]]
    assert steps == [
        n for n in (10, 60, 110, 150, 200) for _ in range(2)
    ]  # the first and the last among them
    pictures = run["pictures"]
    assert len(pictures) == 10 and pictures["step-00000200/001.png"] == ""
    assert pictures["step-00000010/000.png"].startswith("data:image/jpeg;base64,")


def test_validation_images_that_are_damaged_in_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run", [line(10)])
    place = add_samples(folder, 10, 3)
    content = (place / "000.png").read_bytes()
    (place / "000.png").write_bytes(content.replace(b"IDAT", b"ID\xffT"))  # a SyntaxError of Pillow
    (place / "001.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)  # the third has 256
    pages = tmp_path / "page.html"
    assert cli.main(["watch", str(folder), "--output", str(pages)]) == 0
    (run,) = data_of(pages.read_text())["runs"]
    assert len(run["pictures"]) == 3 and not any(run["pictures"].values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing from tglo watch|no run to watch"),
        (["{here}/nowhere", "--output", "{here}/new.html"], r"no run at \S+/nowhere \(yet\)"),
        (["{here}/nowhere", "--port", "70000"], "is not between 0 and 65535"),
        (["{here}", "--output", "{here}"], "is a folder; give a file in it"),
        (["{here}", "--output", "{here}/run/metrics.jsonl"], "is no page, and would be lost"),
        (["{here}", "--host", "0.0.0.0"], "--token random"),
        (["{here}/run", "--port", "70000"], "is not between 0 and 65535"),
    ],
)
def test_what_cannot_be_watched(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", [line(10)])
    try:
        status: Any = cli.main(["watch", *(a.format(here=tmp_path) for a in arguments)])
    except SystemExit as stop:
        status = stop.code
    error = " ".join(capsys.readouterr().err.split())
    assert status != 0 and re.search(said, error), error
