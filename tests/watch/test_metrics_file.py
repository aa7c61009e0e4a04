"""metrics.jsonl while it is written, torn, damaged, rewritten and gone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.watch.made import append, line
from tglo.train.reports import metrics
from tglo.watch.metrics_file import MetricsFile


@pytest.fixture
def run(tmp_path: Path) -> Path:
    append(tmp_path, [line(step) for step in (10, 20, 30)])
    return tmp_path


def reading(run: Path) -> MetricsFile:
    file = MetricsFile(run / "metrics.jsonl")
    file.poll()
    return file


def test_what_training_writes_is_read(tmp_path: Path) -> None:
    written = metrics.MetricsFile(tmp_path / "metrics.jsonl", 0)
    written.write(10, {"loss": 0.5, "seconds/data": 0.25, "memory_gib": 3.0, "something": 1.0})
    file = reading(tmp_path)
    names = ("step", "loss", "seconds_data", "memory_gib")
    assert [file.last(name) for name in names] == [10, 0.5, 0.25, 3.0]
    assert np.isnan(file.last("r_positive"))


def test_only_new_lines_are_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = reading(run)
    taken: list[bytes] = []
    take = MetricsFile._take
    monkeypatch.setattr(
        MetricsFile, "_take", lambda self, new: (taken.append(new), take(self, new))
    )
    file.poll()
    append(run, [line(40)])
    file.poll()
    assert [json.loads(new)["step"] for new in taken if new] == [40]
    assert file.column("step").tolist() == [10, 20, 30, 40] and file.generation == 0


def test_a_torn_last_line_waits_for_its_end(run: Path) -> None:
    file = reading(run)
    text = json.dumps(line(40)) + "\n"
    for part in (text[:50], text[50:-1]):
        with file.path.open("a") as handle:
            handle.write(part)
        assert file.poll() is False
        assert len(file) == 3 and file.damaged == 0
    with file.path.open("a") as handle:
        handle.write("\n")
    file.poll()
    assert file.last("step") == 40


def test_nan_inf_and_damage(run: Path) -> None:
    append(run, [line(40, loss=float("nan")), line(50, loss=float("inf"))])
    with (run / "metrics.jsonl").open("ab") as handle:
        handle.write(b'{"step": 55, "lo\n\xff\xfe\n[1]\n' + b"[" * 5000 + b'\n{"step": null}\n')
        handle.write(b'{"step": 60, "loss": null, "r_positive": "x"}\n')
    append(run, [line(70)])
    file = reading(run)
    assert file.column("step").tolist() == [10, 20, 30, 40, 50, 60, 70] and file.damaged == 5
    loss = file.column("loss")
    assert np.isnan(loss[3]) and np.isposinf(loss[4]) and np.isnan(loss[5]) and loss[6] == 2.0


def test_a_resumed_run_rewrites_the_file(run: Path) -> None:
    file = reading(run)
    metrics.MetricsFile(file.path, 20).write(30, {"loss": 7.0})
    file.poll()
    assert file.generation == 1 and file.column("loss").tolist() == [2.0, 2.0, 7.0]
    assert file.went_back is None  # the same last step
    metrics.MetricsFile(file.path, 10)
    file.poll()
    assert file.generation == 2 and file.went_back == (30, 10)


@pytest.mark.parametrize("longer", [False, True])
def test_a_file_written_over_in_place_is_noticed(run: Path, longer: bool) -> None:
    file = reading(run)
    steps = range(11, 61, 10) if longer else (11, 21)
    with file.path.open("r+") as handle:  # the same inode
        handle.truncate(0)
        handle.writelines(json.dumps(line(step)) + "\n" for step in steps)
    file.poll()
    assert file.generation == 1 and file.column("step").tolist() == list(steps)


def test_a_file_that_goes_and_comes(run: Path) -> None:
    file = reading(run)
    os.replace(file.path, run / "aside")
    assert file.poll() is False and len(file) == 3  # what was read stays
    append(run, [line(5)])
    file.poll()
    assert file.column("step").tolist() == [5] and file.generation == 1
    nowhere = reading(run / "nowhere")
    assert len(nowhere) == 0 and np.isnan(nowhere.last("step"))


def test_a_long_file_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tglo.watch.metrics_file.CHUNK", 5000)
    append(tmp_path, [line(step) for step in range(200)])
    file = MetricsFile(tmp_path / "metrics.jsonl")
    pieces, shares = 0, [0.0]
    while file.poll(5000):
        pieces += 1
        assert shares[-1] < file.share_read < 1
        shares.append(file.share_read)
    assert pieces > 5 and file.share_read == 1
    assert file.column("step").tolist() == list(range(200))
    with file.path.open("a") as handle:
        handle.write("x" * 12_000 + "\n" + json.dumps(line(200)) + "\n")
    while file.poll(5000):
        pass
    assert file.last("step") == 200 and file.damaged >= 1


def test_a_file_that_cannot_be_read_is_told(run: Path) -> None:
    file = reading(run)
    file.path.unlink()
    file.path.mkdir()
    assert file.poll() is False and file.problem == "Is a directory" and len(file) == 3
    file.path.rmdir()
    assert file.poll() is False and file.problem is None
