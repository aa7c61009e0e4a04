"""The launch files parse, and the Slurm file passes signals on (against stand-ins for Slurm)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    square_cache,
    write_toml,
)
from tests.train.test_distributed import Make, wait_for_step

pytest.importorskip("deepspeed")
LAUNCH = Path(__file__).parents[2] / "examples" / "launch"
FILES = sorted(file for file in LAUNCH.iterdir() if file.suffix in (".sh", ".sbatch"))

SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$LOG"
trap 'echo "srun got TERM" >>"$LOG"; sleep 0.3; echo "srun saved" >>"$LOG"; exit 143' TERM
if [ "${FINISH:-no}" != no ]; then exit "$FINISH"; fi
while :; do sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$LOG"
if [ "$1" = show ]; then printf 'node0\\nnode1\\n'; fi
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_launch_file_is_valid_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)


def start_job(folder: Path, **more: str) -> tuple[subprocess.Popen[bytes], Path]:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    log = folder / "log"
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(log),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_NNODES": "2",
        "LAUNCH": str(LAUNCH),
    }
    command = ["bash", str(LAUNCH / "slurm.sbatch"), "a.toml", "--seed", "1"]
    return subprocess.Popen(command, env=environment | more), log


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_file_saves_and_requeues_on_a_signal(number: int, tmp_path: Path) -> None:
    job, log = start_job(tmp_path)
    deadline = time.monotonic() + 20
    while not log.exists() or "srun --" not in log.read_text():
        assert time.monotonic() < deadline, "srun was not started"
        time.sleep(0.05)
    time.sleep(0.2)  # until the stand-in has set its trap
    job.send_signal(number)
    assert job.wait(timeout=20) == 0
    lines = log.read_text().splitlines()
    assert lines[0] == "scontrol show hostnames node[0-1]"
    assert "--rdzv-endpoint node0:29400" in lines[1] and "--nnodes 2" in lines[1]
    assert lines[1].endswith("-m tglo.cli train a.toml --seed 1")
    assert lines[2:] == ["srun got TERM", "srun saved", "scontrol requeue 7"]


@pytest.mark.timeout(240)
def test_sigterm_to_a_launch_file_saves_a_checkpoint_and_ends_with_0(
    make_config: Make, square_cache: Path, tmp_path: Path
) -> None:
    config = make_config(
        model={"train": "full"},
        data={"cache": str(square_cache)},
        optimizer={"steps": 5000, "micro_batch": 2},
        engine={"kind": "deepspeed", "zero_stage": 1},
        output={"save_every": 5000, "export": False},
    )
    script = [str(LAUNCH / "one_node.sh"), str(write_toml(config, tmp_path / "run.toml"))]
    with (tmp_path / "output").open("w") as output:
        job = subprocess.Popen(
            script, env=os.environ | {"GPUS": "2"}, stdout=output, stderr=subprocess.STDOUT
        )
    wait_for_step(config.output.folder, 2, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=100) == 0, (tmp_path / "output").read_text()[-3000:]
    assert "stopped by a signal after step" in (tmp_path / "output").read_text()
    assert len(list((config.output.folder / "checkpoints").glob("step-*"))) == 1


@pytest.mark.parametrize("status", [0, 3])
def test_slurm_file_ends_as_the_run_ends(status: int, tmp_path: Path) -> None:
    job, log = start_job(tmp_path, FINISH=str(status))
    assert job.wait(timeout=20) == status
    assert "requeue" not in log.read_text()
