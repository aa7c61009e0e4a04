"""Checkpoints written by a thread while training continues: the same files, whole or absent, and failures told."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_full_disk import fill, leftovers
from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    square_cache,
    write_toml,
)
from tests.train.test_checkpoint import found_step, names, save, write
from tglo.cli import main
from tglo.train import TrainConfig, checkpoint_manifest, contents, host_memory, loop, saving, train
from tglo.train.checkpoint import Checkpoints, newest
from tglo.train.checkpoint_draft import CheckpointError

Make = Callable[..., TrainConfig]


class Slow:
    """Writes files when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, folder: Path) -> None:
        self.begun.set()
        assert self.go.wait(60)
        write(folder)


def full(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_start_returns_at_once_and_the_older_one_stays_until_the_new_one_is_whole(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1, keep=1)
    run, slow = Checkpoints(tmp_path, keep=1), Slow()
    run.start(2, slow, {"step": 2})
    assert slow.begun.wait(60)
    run.look(run.writing)
    assert found_step(tmp_path) == 1
    assert (tmp_path / "latest").read_text() == "step-00000001\n"
    slow.go.set()
    run.wait()
    assert names(tmp_path) == ["step-00000002"] and found_step(tmp_path) == 2
    assert (tmp_path / "latest").read_text() == "step-00000002\n"


@pytest.mark.parametrize("how", ["start", "save"])
def test_one_at_a_time(how: str, tmp_path: Path) -> None:
    run, slow, found = Checkpoints(tmp_path, keep=2), Slow(), list[int | None]()
    run.start(1, slow, {"step": 1})

    def second(folder: Path) -> None:
        found.append(found_step(tmp_path))
        write(folder)

    threading.Timer(0.05, slow.go.set).start()
    getattr(run, how)(2, second, {"step": 2})
    run.wait()
    assert found == [1] and found_step(tmp_path) == 2


@pytest.mark.parametrize("when", ["look", "wait", "start", "save", "end"])
def test_a_failure_is_told_once_and_the_older_one_stays(when: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    run = Checkpoints(tmp_path, keep=1)
    expected = (
        r"checkpoint step-00000002 was not written: the disk is full: .*step-00000002 needs 4.0 MB"
    )
    with pytest.raises(CheckpointError, match=expected), run.finished():
        run.start(2, full, {"step": 2}, needed=4_000_000)
        if when == "look":
            while True:
                run.look(run.writing)
                time.sleep(0.001)
        elif when == "wait":
            run.wait()
        elif when != "end":
            getattr(run, when)(3, write, {"step": 3})
    assert names(tmp_path) == ["step-00000001"]
    run.look(run.writing)
    run.start(3, write, {"step": 3})
    run.wait()
    assert names(tmp_path) == ["step-00000003"]


def test_what_ended_a_run_is_told_and_the_checkpoint_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, slow = Checkpoints(tmp_path, keep=1), Slow()
    with pytest.raises(FloatingPointError), run.finished():
        run.start(1, slow, {"step": 1})
        threading.Timer(0.05, slow.go.set).start()
        raise FloatingPointError
    assert found_step(tmp_path) == 1
    with pytest.raises(FloatingPointError), run.finished():
        run.start(2, full, {"step": 2})
        raise FloatingPointError
    assert "checkpoint step-00000002 was not written: the disk is full" in caplog.text


def test_a_second_ctrl_c_does_not_wait_and_nothing_is_published_afterwards(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background ignores it
    run, slow = Checkpoints(tmp_path, keep=1), Slow()
    with pytest.raises(KeyboardInterrupt), run.finished():
        run.start(2, slow, {"step": 2})
        (thread,) = (t for t in threading.enumerate() if t.name == "tglo-checkpoint")
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        run.wait()
    signal.signal(signal.SIGINT, before)
    slow.go.set()
    thread.join(60)
    assert names(tmp_path) == ["step-00000001"]


def all_files(config: TrainConfig) -> dict[str, Any]:
    """What every checkpoint holds, and its state but for this setting."""
    found = {}
    for folder in sorted((config.output.folder / "checkpoints").glob("step-*")):
        content = checkpoint_manifest.read(folder)
        state = {**content.state, "config": {**content.state["config"], "output": None}}
        found[folder.name] = (content.files, state)
    return found


def test_the_same_files_although_training_has_gone_on(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is written only after the next update has changed weights, state, average and reference."""
    options: dict[str, Any] = {
        "model": {"train": "full"},
        "objective": {"update_reference_every_epoch": True},
        "optimizer": {"ema_decay": 0.5, "steps": 7},
    }
    output = {"save_every": 2, "keep": 9, "export": False}
    at_once = make_config(folder="at-once", **options, output={**output, "async_save": "off"})
    train(at_once)
    behind = make_config(folder="behind", **options, output={**output, "async_save": "on"})
    step_itself, write_itself = loop._step, saving.write
    updated, written = threading.Event(), list[str]()

    def step(*arguments: Any) -> Any:
        done = step_itself(*arguments)
        updated.set()
        return done

    def late(files: Any, folder: Path) -> None:
        updated.clear()
        assert updated.wait(60)
        written.append(folder.name)
        write_itself(files, folder)

    monkeypatch.setattr(loop, "_step", step)
    monkeypatch.setattr(saving, "write", late)
    train(behind)
    assert written == [f"step-{n:08d}.tmp" for n in (2, 4, 6)]
    left, right = all_files(at_once), all_files(behind)
    assert list(left) == [f"step-{n:08d}" for n in (2, 4, 6, 7)]
    names_ = {"model", "optimizer", "ema", "reference"}
    assert {f"{n}.safetensors" for n in names_} < set(left["step-00000002"][0])
    assert left == right


def test_a_full_disk_stops_the_run(
    make_config: Make,
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fault 3, with most of the steps to come."""
    output: dict[str, Any] = {
        "folder": str(small_disk / "run"),
        "save_every": 2,
        "async_save": "on",
    }
    output["log_every"] = 5000
    config = make_config(output=output, optimizer={"steps": 5000})
    toml, write_itself = str(write_toml(config, tmp_path / "run.toml")), saving.write

    def write_to_a_full_disk(files: Any, folder: Path) -> None:
        if "00000004" in folder.name:
            fill(small_disk)
        write_itself(files, folder)

    monkeypatch.setattr(saving, "write", write_to_a_full_disk)
    assert main(["train", toml]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(
        r"tglo: checkpoint step-00000004 was not written: the disk is full: .* MB and could not",
        last,
    )
    assert "Older checkpoints are unharmed" in last and not leftovers(small_disk)
    found = newest(small_disk / "run" / "checkpoints")
    assert found is not None and found[1]["step"] == 2


def test_a_stop_waits_for_the_one_that_is_written(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(output={"save_every": 2, "async_save": "on"}, optimizer={"steps": 5000})
    step_itself, write_itself, asked = loop._step, saving.write, threading.Event()

    def step(run: Any, step: int, *arguments: Any) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            asked.set()
        return step_itself(run, step, *arguments)

    def late(files: Any, folder: Path) -> None:
        assert asked.wait(60)
        write_itself(files, folder)

    monkeypatch.setattr(loop, "_step", step)
    monkeypatch.setattr(saving, "write", late)
    result = train(config)
    assert (result.finished, result.steps) == (False, 3)
    root = config.output.folder / "checkpoints"
    assert names(root) == ["step-00000002", "step-00000003"] and found_step(root) == 3


@pytest.mark.parametrize(("free", "background"), [(10**12, True), (1000, False), (None, True)])
def test_auto_asks_for_memory(
    free: int | None,
    background: bool,
    make_config: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_memory, "available", lambda: free)
    started, start = list[int](), Checkpoints.start

    def count(run: Checkpoints, step: int, *arguments: Any) -> None:
        started.append(step)
        start(run, step, *arguments)

    monkeypatch.setattr(Checkpoints, "start", count)
    config = make_config(output={"save_every": 1, "export": False}, optimizer={"steps": 3})
    with caplog.at_level(logging.INFO, "tglo"):
        train(config)
    assert started == ([1, 2] if background else [])  # the last one is written at once
    where = "in the background" if background else "while training waits"
    assert len(re.findall(f"checkpoints are written {where}", caplog.text)) == 1
    assert found_step(config.output.folder / "checkpoints") == 3


def test_memory_that_cannot_be_had_is_no_reason_to_stop(
    make_config: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(contents.HostCopy, "_take", refused)
    config = make_config(output={"save_every": 1, "export": False}, optimizer={"steps": 3})
    train(config)
    assert caplog.text.count("checkpoints are written while training waits from now on") == 1
    assert names(config.output.folder / "checkpoints") == ["step-00000002", "step-00000003"]
