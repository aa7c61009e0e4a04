"""A step that takes far longer than the others ends the process with its stacks, and nothing else does."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.preloaded import Popen, run
from tests.train.conftest import write_toml
from tests.train.test_distributed import free_port
from tglo.stopping import RESTART
from tglo.train import TrainConfig
from tglo.train.config import EngineConfig
from tglo.train.hung import KNOWN, HungStep

Make = Callable[..., TrainConfig]
HANGS = """
import sys, time
from tglo import cli
from tglo.train import loop
step_itself = loop._step
def step_that_hangs(run, step, *arguments):
    if step == 4:
        time.sleep(600)
    return step_itself(run, step, *arguments)
loop._step = step_that_hangs
sys.exit(cli.main(["train", sys.argv[1]]))
"""


def watched(end: Callable[[int], None], after: float = 20.0, seconds: float = 0.2) -> HungStep:
    return HungStep(EngineConfig(hung_after=after, hung_seconds=seconds), end)


def test_a_hung_step_ends_the_run_with_its_stacks(make_config: Make, tmp_path: Path) -> None:
    config = make_config(
        engine={"hung_seconds": 2.0}, optimizer={"steps": 9}, output={"save_every": 2}
    )
    toml, mark = write_toml(config, tmp_path / "run.toml"), tmp_path / "mark"
    asked = {"TGLO_RESTART_FILE": str(mark), "PYTHONPATH": ":".join(filter(None, sys.path))}
    start = time.monotonic()
    ended = run(
        [sys.executable, "-c", HANGS, str(toml)],
        capture_output=True,
        text=True,
        env=asked,
        timeout=100,
    )
    assert time.monotonic() - start < 90
    assert ended.returncode == RESTART and mark.exists()
    assert "step_that_hangs" in ended.stderr and "[rank 0] " in ended.stderr
    line = ended.stderr.splitlines()[-1]
    taken = re.match(r"tglo: rank 0 of 1: step 5 has taken ([\d.]+) s", line)
    assert taken and float(taken[1]) >= 2 and "resumes" in line
    assert (config.output.folder / "checkpoints" / "step-00000004").is_dir()


RANKS = """
import os, time, torch
from datetime import timedelta
from tglo.train import processes
from tglo.train.config import EngineConfig
from tglo.train.hung import HungStep
def stuck_in_a_disk():
    time.sleep(600)
processes.join("gloo", torch.device("cpu"), timedelta(seconds=60))
with HungStep(EngineConfig(hung_seconds=5.0)) as hung, processes.naming_lost_peers():
    for number in range(9):
        hung.begin(number + 1)
        if number == 4 and processes.rank() == 1:
            stuck_in_a_disk()
        processes.reduce_sum(torch.ones(1))
        hung.finish()
"""


def test_every_rank_prints_its_stacks() -> None:
    command = [sys.executable, "-m", "tests.ranks", "2", str(free_port()), "-c", RANKS]
    start = time.monotonic()
    ended = run(command, capture_output=True, text=True, timeout=100)
    assert time.monotonic() - start < 90 and ended.returncode == 1
    stacks = {r: [x for x in ended.stderr.splitlines() if f"[rank {r}]" in x] for r in (0, 1)}
    assert any("stuck_in_a_disk" in line for line in stacks[1])
    assert any("all_reduce" in line for line in stacks[0])
    (first, second) = [x for x in ended.stderr.splitlines() if x.startswith("tglo: rank ")]
    taken = re.search(r"step 5 has taken ([\d.]+) s", first)
    assert taken and float(taken[1]) >= 5 and "the rank that does not is the one to look" in first
    assert {first[:17], second[:17]} == {"tglo: rank 0 of 2", "tglo: rank 1 of 2"}


def test_what_is_no_step_takes_as_long_as_it_takes() -> None:
    ended: list[int] = []
    with watched(ended.append) as hung:
        for number in range(KNOWN + 1):
            hung.begin(number + 1)
            time.sleep(0.001)
            hung.finish()
            time.sleep(0.3)  # a checkpoint
    assert not ended


def test_the_limit_is_of_recent_steps_and_not_below_the_floor() -> None:
    hung = watched(lambda _: None, after=20, seconds=0.5)
    for took in (9.0, 0.05, 0.05):
        assert hung.limit() == 0  # the first steps compile
        hung._took.append(took)
    assert hung.limit() == 1.0
    hung._took.extend([0.001] * 20)
    assert hung.limit() == 0.5


def test_0_switches_it_off() -> None:
    ended: list[int] = []
    with watched(ended.append, after=0, seconds=0.01) as hung:
        for number in range(KNOWN + 1):
            hung.begin(number + 1)
            time.sleep(0.02)
            hung.finish()
    assert not ended and hung._thread is None


STOPPED = """
import sys, time
from tglo.train.config import EngineConfig
from tglo.train.hung import HungStep
with HungStep(EngineConfig(hung_seconds=1.0)) as hung:
    for number in range(3):
        hung.begin(number)
        hung.finish()
    hung.begin(4)
    print("asleep", flush=True)
    for _ in range(30):
        time.sleep(0.01)
    hung.finish()
"""


def test_time_in_which_the_process_is_stopped_does_not_count() -> None:
    process = Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("name", ["hung_after", "hung_seconds"])
def test_another_limit_is_no_change_of_a_run(
    name: str, make_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    from tglo.train import train

    train(make_config())
    assert train(make_config(engine={name: 100.0}, optimizer={"steps": 5})).steps == 5
    assert "resuming with optimizer.steps" in caplog.text and name not in caplog.text
