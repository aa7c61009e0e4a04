"""`tglo look` and `tglo threshold --report`, as they are called."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.data.test_manifest import png
from tests.look.conftest import HOSTILE, write
from tglo.cli import main

RUN = """
recipe = "tglo"
[model]
path = "./base"
[data]
manifest = "elsewhere.csv"
cache = "{folder}/no-cache"
[optimizer]
steps = 20
micro_batch = 2
[output]
folder = "{folder}/run"
"""


def look(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:  # type: ignore[type-arg]
    assert main(["look", *map(str, arguments), "--json"]) == 0
    found: dict = json.loads(capsys.readouterr().out)  # type: ignore[type-arg]
    return found


def test_the_page_has_everything_inside_and_escapes(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    found = look(capsys, faulty, "--output", page)
    html = page.read_text()
    assert found["output"] == str(page) and found["rows"] == 18
    assert HOSTILE not in html and "&lt;script&gt;document.title" in html
    assert not re.search(r"<script|<img src=x|https?://|url\(|@import", html)
    assert html.count("data:image/") >= 14  # each image once in each gallery
    assert "cannot be shown: gone.png" in html and "cannot be shown: broken.png" in html
    for title in (
        "Best images",
        "Worst images",
        "Images nearest",
        "Aspect buckets",
        "One image, several scores",
    ):
        assert title in html
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith((".", "page"))] == ["page.html"]


def test_before_scoring_some_images_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "m.csv").write_text("prompt,image\nsomething,a.png\n")
    page = tmp_path / "new" / "page.html"
    assert look(capsys, tmp_path / "m.csv", "--output", page)["threshold"] is None
    html = page.read_text()
    assert "Some images" in html and "data:image/png" in html and "Best images" not in html


def test_what_is_said_without_json(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["look", str(faulty), "--output", str(tmp_path / "p.html")]) == 0
    said = capsys.readouterr().out
    assert "18 rows, 18 with a score; 6 prompts, 15 images\nthreshold 5.5" in said
    assert "warning: Images that are not there: 1 of 15, gone.png." in said


def test_the_threshold_command_writes_the_same_page(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen, pages = tmp_path / "t.json", [tmp_path / "a.html", tmp_path / "b.html"]
    chosen = ["--percentile", "60", "--confidence", "2", "--score-scale", "std"]
    assert (
        main(
            ["threshold", str(faulty), "--output", str(frozen), *chosen, "--report", str(pages[0])]
        )
        == 0
    )
    capsys.readouterr()
    look(capsys, faulty, "--threshold", frozen, "--confidence", 2, "--output", pages[1])
    assert pages[0].read_text() == pages[1].read_text()


def test_a_run_s_file_answers_what_no_flag_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path, [(f"p{n // 3}", f"{n}.png", n) for n in range(9)])
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path))
    common = [data, "--output", tmp_path / "p.html"]
    found = look(capsys, *common, "--config", tmp_path / "run.toml")
    assert found["threshold"]["baseline"] == "oracle" and found["threshold"]["normalised"]
    assert found["prospects"]["steps"] == 20 and found["prospects"]["samples"] == 9
    assert "What the settings would do" in (tmp_path / "p.html").read_text()
    found = look(
        capsys, *common, "--config", tmp_path / "run.toml", "--baseline", "mean", "--confidence", 3
    )
    assert (found["threshold"]["baseline"], found["threshold"]["confidence"]) == ("mean", 3)
    assert look(capsys, *common)["prospects"] is None
    main(["threshold", str(data), "--output", str(tmp_path / "t.json")])
    capsys.readouterr()
    frozen = look(
        capsys, *common, "--config", tmp_path / "run.toml", "--threshold", tmp_path / "t.json"
    )
    assert frozen["threshold"]["baseline"] == "percentile" and not frozen["prospects"]["refused"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--percentile", "200"], "data.percentile is 200.0; it must be from 0 to 100"),
        (["--threshold", "t.json", "--kappa", "3"], "--kappa estimate one; leave one out"),
        (["--threshold", "t.json"], "there is no threshold file t.json"),
        (
            ["--baseline", "mean", "--percentile", "40"],
            "percentile is 40, which baseline mean does not use",
        ),
        (["--resolution", "0"], "resolution must be a multiple of"),
        (["--config", "none.toml"], "config file none.toml does not exist"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    flags: list[str], said: str, faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["look", str(faulty), "--output", str(tmp_path / "p.html"), *flags]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "p.html").exists()


def test_a_caption_without_an_image_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    for name in ("cat.txt", "dog.txt"):
        (tmp_path / name).write_text("an animal")
    assert main(["look", str(tmp_path)]) == 1
    assert "dog.txt: is a caption without an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [["look", "--output"], ["threshold", "--report"], ["threshold", "--output"]],
)
def test_the_manifest_is_not_overwritten(
    flags: list[str], faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = faulty.read_bytes()
    output = [] if "--output" in flags else ["--output", str(tmp_path / "t.json")]
    assert main([flags[0], str(faulty), flags[1], str(faulty), *output]) == 1
    assert "give another" in capsys.readouterr().err and faulty.read_bytes() == before
    assert not (tmp_path / "t.json").exists()
