"""Whether a run waits, runs, is silent, is done, was stopped, crashed or is gone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.watch.made import age, append, line, make_run
from tglo.files import locked
from tglo.watch import state
from tglo.watch.runs import Run
from tglo.watch.state import State

LINES = [line(step) for step in range(10, 110, 10)]


def now(folder: Path) -> State:
    run = Run(folder)
    run.poll(2**62)
    return run.state()


def checkpoint(folder: Path, step: int) -> None:
    (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)


def test_a_run_that_holds_its_folder_runs(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", LINES)
    age(folder, 100)  # late for lines that take 5.1 s each, but it is there
    with locked(folder / ".lock", "busy"):
        assert now(folder).word == "running"
    assert now(folder).word == "crashed"


def test_what_is_left(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", LINES)
    found = now(folder)  # not held, as from another machine, but its last line is new
    assert found.word == "running" and found.sentence == "At step 100 of 1,000; about 8 min to go."
    assert found.seconds_left == pytest.approx(900 * 0.51, abs=2)


def test_looking_does_not_take_the_lock(tmp_path: Path) -> None:
    """A run that starts at that moment must get it; a process that ended must not hold it."""
    folder = make_run(tmp_path / "run", LINES)
    program = "import sys; from pathlib import Path; from tglo.files import locked\n" + (
        "with locked(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert state.is_held(folder / ".lock")
        process.kill()
    assert not state.is_held(folder / ".lock")
    with locked(folder / ".lock", "busy"):
        pass
    assert not state.is_held(folder / "no.lock")


def test_a_run_that_holds_its_folder_and_says_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", LINES)
    age(folder, 1000)
    with locked(folder / ".lock", "busy"):
        found = now(folder)
    assert found.word == "silent" and "wrote nothing for 17 min" in found.sentence


@pytest.mark.parametrize(
    ("checkpoints", "word", "sentence"),
    [
        ([50, 100], "stopped", "Stopped after step 100; the same command resumes."),
        ([50], "crashed", "the same command resumes from step 50."),
        ([], "crashed", "the same command resumes from the start."),
    ],
)
def test_a_stop_and_a_crash(
    checkpoints: list[int], word: str, sentence: str, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", LINES)
    age(folder, 100)
    for step in checkpoints:
        checkpoint(folder, step)
    found = now(folder)
    assert found.word == word and found.sentence.endswith(sentence)


def test_the_end(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [*LINES, line(1000)])
    with locked(folder / ".lock", "busy"):
        assert "export is being written" in now(folder).sentence
    assert now(folder) == State(
        "finished", "All 1,000 steps are done, but there is no export: tglo export writes it."
    )
    (folder / "export").mkdir()
    assert now(folder) == State("finished", "All 1,000 steps are done.")
    without = make_run(tmp_path / "without", [line(1000)], output={"export": False})
    assert now(without) == State("finished", "All 1,000 steps are done.")


def test_before_the_first_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    assert "no run on this machine holds the folder" in now(folder).sentence
    with locked(folder / ".lock", "busy"):
        assert now(folder).sentence == "It runs, and writes its first line after 10 steps."
        (folder / "config.json").unlink()
        assert "data and model are being read" in now(folder).sentence
        assert now(folder).word == "waiting"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "run", LINES))
    run.poll(2**62)
    shutil.rmtree(run.folder)
    run.poll(2**62)
    assert run.state().word == "gone" and len(run.metrics) == 10


@pytest.mark.parametrize("tables", [{"optimizer": {"steps": "many"}}, {"optimizer": {"steps": 0}}])
def test_a_configuration_that_says_nothing(tables: dict[str, Any], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", LINES, **tables)
    assert now(folder).sentence == "At step 100."
    (folder / "config.json").write_text("[torn")
    assert now(folder).word == "running"


def test_lines_without_times(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [{"step": 10}])
    assert now(folder).sentence == "At step 10 of 1,000."
    append(folder, [{"step": 20}])
    assert now(folder).word == "running"


def test_a_clock_that_differs_counts_until_a_line_comes(tmp_path: Path) -> None:
    """A run of another machine, whose disk's clock is an hour behind or ahead of ours."""
    for hours in (1, -1):
        folder = make_run(tmp_path / str(hours), LINES)
        run = Run(folder)
        age(folder, 3600 * hours)
        run.poll(2**62)
        assert run.state().word == ("crashed" if hours > 0 else "running")
        append(folder, [line(110)])
        age(folder, 3600 * hours)
        run.poll(2**62)
        assert run.state().word == "running"
