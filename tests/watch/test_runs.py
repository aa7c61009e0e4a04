"""Which folders are runs, how they are named, and which of their files are validation images."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.watch.made import add_samples, append, line, make_run
from tglo.train.earlier import set_aside
from tglo.watch import runs as watched
from tglo.watch.page import snapshot
from tglo.watch.runs import Runs, find_runs
from tglo.watch.samples import Samples, address


def test_every_run_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/two", "a", "b/one/deep"):
        make_run(tmp_path / name, [line(10)])
    make_run(tmp_path / "waiting")
    for nothing in ("empty", ".hidden/run", "model"):
        (tmp_path / nothing).mkdir(parents=True)
    make_run(tmp_path / ".hidden" / "inside", [line(10)])
    (tmp_path / "model" / "config.json").write_text(json.dumps({"hidden_size": 8}))
    make_run(tmp_path / "a" / "samples" / "odd", [line(10)])  # inside of a run
    found = Runs([tmp_path])
    assert [run.name for run in found] == ["a", "b/one/deep", "b/two", "waiting"]


def test_a_run_that_was_set_aside_is_named_by_itself_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [line(10)])
    assert set_aside(folder) == folder / "earlier-1"
    append(folder, [line(20)])
    assert list(find_runs(tmp_path)) == [folder]
    assert list(find_runs(folder / "earlier-1")) == [folder / "earlier-1"]
    both = Runs([folder, folder / "earlier-1", folder])
    assert [run.name for run in both] == [".", "earlier-1"]


def test_runs_that_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "b", [line(10)])
    found = Runs([tmp_path])
    assert [run.name for run in found] == ["b"]
    make_run(tmp_path / "a", [line(10)])
    monkeypatch.setattr(watched, "_LOOK_AGAIN", -1.0)
    found.poll()
    assert [run.name for run in found] == ["b", "a"]  # in their order: a page knows them by number


def test_a_run_that_is_only_locked_yet(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (run,) = Runs([tmp_path / "run"])
    assert run.state().word == "waiting"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "file is a file; give the folder of a run"),
        ("other", "other is no run's folder and has none below it: there is no metrics.jsonl"),
    ],
)
def test_what_is_no_run(place: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match=said):
        Runs([tmp_path / place])


def test_runs_that_are_still_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_LOOK_AGAIN", -1.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    found = Runs([Path("runs/a"), Path("empty")])
    assert not found.poll() and found.awaited() == ["runs/a", "empty"]
    assert snapshot(found, False)["title"] == "No training runs"
    make_run(tmp_path / "runs" / "b", [line(10)])  # not the one that was asked for
    (tmp_path / "empty" / "run").mkdir()
    (tmp_path / "empty" / "run" / ".lock").touch()
    found.poll()
    assert [run.name for run in found] == ["run"] and found.awaited() == ["runs/a"]
    make_run(tmp_path / "runs" / "a", [line(10)])
    found.poll()
    assert [run.name for run in found] == ["empty/run", "runs/a"] and found.awaited() == []


def test_samples(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    assert samples.poll() == []
    add_samples(tmp_path, 200)
    place = add_samples(tmp_path, 100)
    (place / "001.mp4").write_bytes(b"video")
    (place / "notes.txt").write_text("")
    (tmp_path / "samples" / ".step-00000300.1-2.tmp").mkdir()
    found = samples.poll()
    assert [(s.step, s.number, s.video) for s in found] == [
        (100, 0, False), (100, 1, True), (200, 0, False), (200, 1, False),
    ]  # fmt: skip
    assert address(found[1]) == "step-00000100/001.png"
    assert samples.file("step-00000100", "001.mp4") == place / "001.mp4"
    time.sleep(0.01)
    (place / "000.png").unlink()
    changed = samples.poll()
    assert len(changed) == 3 and changed[0].version != found[0].version


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("step-00000100", "notes.txt"),
        ("step-00000100", "../../secret.png"),
        ("..", "000.png"),
        ("step-00000100/..", "000.png"),
        ("step-00000100", "002.png"),  # a link that leads away
        ("step-00000300", "000.png"),  # another
        ("step-00000999", "000.png"),
    ],
)
def test_no_other_file_is_given_out(step: str, name: str, tmp_path: Path) -> None:
    place = add_samples(tmp_path / "run", 100)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (place / "notes.txt").write_text("")
    os.symlink(secret, place / "002.png")
    away = add_samples(tmp_path / "other", 300)
    os.symlink(away, tmp_path / "run" / "samples" / "step-00000300")
    assert Samples(tmp_path / "run").file(step, name) is None


def test_whole_numbers_that_are_no_settings(tmp_path: Path) -> None:
    """One damaged run does not take the page from the others."""
    huge = 10**400
    make_run(
        tmp_path / "a",
        [line(step) for step in range(10, 300, 10)],
        optimizer={"steps": huge, "learning_rate": huge, "max_gradient_norm": huge, "micro_batch": huge},
        output={"log_every": huge},
    )  # fmt: skip
    make_run(tmp_path / "b", [line(10)])
    runs = Runs([tmp_path])
    runs.poll()
    assert [entry["total"] for entry in snapshot(runs, False)["runs"]] == [None, 1000]


def test_a_folder_of_samples_that_lies_elsewhere(tmp_path: Path) -> None:
    add_samples(tmp_path / "private", 100)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").symlink_to(tmp_path / "private" / "samples")
    samples = Samples(tmp_path / "run")
    assert samples.poll() == [] and samples.file("step-00000100", "000.png") is None
    (tmp_path / "link").symlink_to(tmp_path / "private")  # a run's folder may be one
    samples = Samples(tmp_path / "link")
    assert len(samples.poll()) == 2 and samples.file("step-00000100", "000.png") is not None
