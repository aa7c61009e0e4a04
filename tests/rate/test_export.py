"""Ratings become a manifest that the next commands read as it stands."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from tests.rate.conftest import ROWS, make_manifest, stars
from tglo.cli import main
from tglo.data.manifest import Manifest, read_manifest
from tglo.files import locked
from tglo.rate.events import Skip
from tglo.rate.log import FILE, RatingLog

GIVEN = {"Ann": [5, 4, 1, 2, 0, 0], "Bob": [3, 4, 2, 0, 5, 0]}
SCORES = [4.0, 4.0, 1.5, 2.0, 5.0]


@pytest.fixture
def rated(manifest: Manifest, path: Path) -> Path:
    """The folder of ratings of m.csv, where it is looked for."""
    folder = path.parent / "m-ratings"
    folder.mkdir()
    log = RatingLog(folder / FILE)
    for rater, given in GIVEN.items():
        log.append([stars(manifest, row, one, rater) for row, one in enumerate(given) if one])
    log.append([Skip(id="skipped-0", rater="Bob", sample=str(manifest.rows[6].sample_id))])
    log.close()
    return folder


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_means_counts_and_spread(path: Path, rated: Path, suffix: str) -> None:
    output = path.with_name(f"rated{suffix}")
    assert main(["rate", str(path), "--export", str(output)]) == 0
    found = read_manifest(output)
    assert found.scores().tolist() == SCORES
    assert [row.image for row in found] == [f"{row}.png" for row in range(5)]
    assert found.rows[0].prompt == "<script>alert(0)</script> & picture 0"
    cells = [row.extra for row in found]
    assert [int(cell["ratings"]) for cell in cells] == [2, 2, 2, 1, 1]
    assert (
        float(cells[0]["spread"]) == pytest.approx(math.sqrt(2)) and float(cells[1]["spread"]) == 0
    )
    assert cells[3]["spread"] in (None, "") and int(cells[4]["seed"]) == 4
    assert all(found.open_image(row) for row in found)


def test_what_is_printed(path: Path, rated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = path.with_name("rated.csv")
    assert main(["rate", str(path), "--export", str(output)]) == 0
    told = capsys.readouterr().out
    assert "8 ratings of 5 of 8 images, 3 by several raters" in told
    assert (
        "alpha (ordinal): 0.510" in told and "Bob  4 rated, 1 skipped, mean 3.50, std 1.12" in told
    )
    assert main(["rate", str(path), "--export", str(output), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["output"] == str(output) and data["ratings"] == 8 and 0.5 < data["alpha"] < 0.52
    assert [rater["name"] for rater in data["raters"]] == ["Ann", "Bob"]


def test_the_threshold_of_an_export(
    path: Path, rated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = path.with_name("rated.csv")
    assert main(["rate", str(path), "--export", str(output)]) == 0
    frozen = path.with_name("threshold.json")
    capsys.readouterr()
    assert main(["threshold", str(output), "--output", str(frozen), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] == 4.0


def test_an_export_elsewhere_is_read_with_its_root(
    path: Path, rated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "other" / "rated.csv"
    assert main(["rate", str(path), "--export", str(output)]) == 0
    assert f"found with --root {path.parent}" in caplog.text
    found = read_manifest(output, root=path.parent)
    assert all(found.open_image(row) for row in found)


def test_an_export_is_rated_and_exported_again(path: Path, rated: Path) -> None:
    first, second = path.with_name("rated.csv"), path.with_name("again.csv")
    assert main(["rate", str(path), "--export", str(first)]) == 0
    arguments = ["rate", str(first), "--output", str(rated), "--export", str(second)]
    assert main(arguments) == 0
    assert second.read_text() == first.read_text()


def test_a_torn_log_is_exported_and_left_as_it_is(path: Path, rated: Path) -> None:
    with (rated / FILE).open("ab") as file:
        file.write(b'{"kind":"rate","id"')
    before = (rated / FILE).read_bytes()
    assert main(["rate", str(path), "--export", str(path.with_name("rated.csv"))]) == 0
    assert (rated / FILE).read_bytes() == before


def test_what_is_refused(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["rate", *arguments]) == 1
        return capsys.readouterr().err

    there = str(path)
    assert "has no ratings of" in said(there, "--export", str(tmp_path / "rated.csv"))
    assert "is the manifest itself" in said(there, "--export", there)
    assert "written as one of" in said(there, "--export", str(tmp_path / "rated.txt"))
    (tmp_path / "r.csv").mkdir()
    assert f"{tmp_path / 'r.csv'} is a folder; give a" in said(
        there, "--export", str(tmp_path / "r.csv")
    )
    assert "overlap is -1" in said(there, "--overlap", "-1")
    assert "there is no manifest" in said(str(tmp_path / "nothing.csv"))
    assert "--token random" in said(there, "--host", "0.0.0.0")
    assert "a rater needs a name" in said(there, "--rater", " ")
    assert "65535" in said(there, "--port", "99999")


def test_a_second_server_on_a_folder(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(path.parent / "m-ratings" / ".lock", "busy"):
        assert main(["rate", str(path)]) == 1
    assert "another `tglo rate` takes ratings into" in capsys.readouterr().err


def test_ratings_of_another_manifest(
    rated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_manifest(tmp_path / "other")
    other.write_text(other.read_text().replace("picture", "image"))
    for more in (["--export", str(tmp_path / "rated.csv")], []):
        assert main(["rate", str(other), "--output", str(rated), *more]) == 1
        assert "ratings of another manifest: none of its 9 is" in capsys.readouterr().err


def test_the_ratings_are_not_overwritten(
    path: Path, rated: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RatingLog(rated / FILE)
    log.append([Skip(id="skipped-1", rater="Cy", sample=str(manifest.rows[6].sample_id))])
    log.close()
    before = (rated / FILE).read_bytes()
    (rated / "link.jsonl").symlink_to(rated / FILE)
    for name in (FILE, "link.jsonl"):
        assert main(["rate", str(path), "--export", str(rated / name)]) == 1
        assert "has the ratings themselves" in capsys.readouterr().err
        assert (rated / FILE).read_bytes() == before
    assert main(["rate", str(path), "--export", str(path.with_name("r.csv"))]) == 0
    told = capsys.readouterr().out
    assert "Cy   0 rated, 1 skipped\n" in told and "nan" not in told


def test_ratings_of_an_image_that_was_replaced_do_not_count(
    path: Path,
    manifest: Manifest,
    make_desk: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for rater, rows in (("Ann", (0, 1, 2)), ("Bob", (1,))):
        make_desk().record(rater, "session-1", [stars(manifest, row, 5) for row in rows], [])
    make_desk().record(
        "Ann",
        "session-1",
        [skip := Skip(id="skipped-9", sample=str(manifest.rows[3].sample_id))],
        [],
    )
    os.utime(path.parent / "0.png")  # touched, and the same
    for row in (1, 3):
        status = os.stat(path.parent / f"{row}.png")
        (path.parent / f"{row}.png").write_bytes((path.parent / "7.png").read_bytes())
        os.utime(path.parent / f"{row}.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    arguments = ["rate", str(path), "--output", str(tmp_path), "--export", str(tmp_path / "r.csv")]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ratings"], told["set_aside"]) == (2, 2)
    assert [row.image for row in read_manifest(tmp_path / "r.csv", root=path.parent)] == [
        "0.png",
        "2.png",
    ]
    desk = make_desk()
    assert (
        desk.book.has(skip) and desk.enter("Ann", "session-1")["left"] == ROWS - 2
    )  # the skipped one as well
    desk.record("Bob", "session-1", [stars(manifest, 1, 2)], [])
    assert main(arguments) == 0
    assert (
        "3 ratings of 3 of 8 images, 0 by several raters\n2 ratings are set aside, whose images were replaced since"
        in capsys.readouterr().out
    )
    (path.parent / "1.png").unlink()  # nothing says that it is another
    assert main(arguments) == 0 and "4 ratings of 3 of" in capsys.readouterr().out


def test_what_has_not_changed_is_not_read(
    manifest: Manifest, make_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_desk().record("Ann", "session-1", [stars(manifest, row, 5) for row in range(ROWS)], [])
    monkeypatch.setattr(Manifest, "open_file", None)
    assert make_desk().book.counts.sum() == ROWS
