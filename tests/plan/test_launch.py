"""The launch files parse, and the Slurm file passes signals on (against stand-ins for Slurm)."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

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
from tglo import cli
from tglo.train import TrainConfig
from tglo.train.loop import TrainResult

pytest.importorskip("deepspeed")
LAUNCH = Path(__file__).parents[2] / "examples" / "launch"
FILES = sorted(file for file in LAUNCH.iterdir() if file.suffix in (".sh", ".sbatch"))

SRUN = """#!/usr/bin/env bash
trap 'echo "srun got TERM" >>"$LOG"; sleep 0.3; echo "srun saved" >>"$LOG"; exit 143' TERM
echo "srun $*" >>"$LOG"
if [ "${MARK:-no}" = yes ]; then touch "$TGLO_RESTART_FILE"; fi
if [ "${FINISH:-no}" != no ]; then exit "$FINISH"; fi
while :; do sleep 0.05; done
"""
TORCHRUN = """#!/usr/bin/env bash
trap 'exit 1' TERM
bash -c 'trap "exit 0" TERM; touch "$READY"; (eval "$TRAINER") & wait $!' || exit 1
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


@pytest.mark.parametrize(
    ("count", "mark", "requeued"), [("0", True, True), ("5", True, False), ("0", False, False)]
)
def test_slurm_file_requeues_after_a_hung_step_a_few_times(
    count: str, mark: bool, requeued: bool, tmp_path: Path
) -> None:
    more = {"FINISH": "137", "SLURM_RESTART_COUNT": count, "SLURM_SUBMIT_DIR": str(tmp_path)}
    job, log = start_job(tmp_path, MARK="yes" if mark else "no", **more)
    assert job.wait(timeout=20) == (0 if requeued else 137)
    assert ("scontrol requeue 7" in log.read_text()) == requeued
    assert not (tmp_path / "slurm-7.restart").exists()


@pytest.mark.parametrize(
    ("trainer", "number", "more", "status"),
    [
        ("exit 0", None, {}, 0),
        ("exit 3", None, {}, 1),  # torchrun says 1 of any
        ('touch "$TGLO_RESTART_FILE"; exit 138', None, {}, 138),
        ("sleep 20", signal.SIGTERM, {}, 0),
        ("sleep 20", signal.SIGUSR1, {}, 0),
        ("sleep 20", signal.SIGUSR1, {"STOPPED_STATUS": "143"}, 143),
        ("exit 0", None, {"STOPPED_STATUS": "143"}, 0),
    ],
)
def test_the_status_says_whether_to_start_again(
    trainer: str, number: int | None, more: dict[str, str], status: int, tmp_path: Path
) -> None:
    """SIGUSR1 goes to the whole group, as Slurm sends it to a step."""
    (tmp_path / "torchrun").write_text(TORCHRUN)
    (tmp_path / "torchrun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    environment |= {"TRAINER": trainer, "READY": str(tmp_path / "ready"), **more}
    job = subprocess.Popen(
        [str(LAUNCH / "torchrun_with_signals.sh"), "-m", "tglo.cli"],
        env=environment,
        start_new_session=True,
    )
    if number is not None:
        deadline = time.monotonic() + 20
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (os.killpg if number == signal.SIGUSR1 else os.kill)(job.pid, number)
    assert job.wait(timeout=15) == status
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)


def test_the_kubernetes_job_says_what_training_reads(make_config: Make, tmp_path: Path) -> None:
    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {name: spec["replicas"] for name, spec in replicas.items()} == {"Master": 1, "Worker": 3}
    for spec in replicas.values():
        assert spec["restartPolicy"] == "ExitCode"
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        (stopped,) = container["env"]
        assert stopped["name"] == "STOPPED_STATUS" and int(stopped["value"]) == 128 + signal.SIGTERM
        (command,) = container["command"]
        assert (LAUNCH / Path(command).name).is_file()
        check_command(container["args"], make_config(), tmp_path)
        (place,) = [a for a in container["args"] if a.startswith("--rdzv-endpoint=")]
        assert place.split("=")[1].split(":")[0] == f"{job['metadata']['name']}-master-0"


def check_command(arguments: list[str], config: TrainConfig, folder: Path) -> None:
    """torchrun's own parser reads the first part, tglo's the rest."""
    from torch.distributed.run import parse_args

    read = parse_args(arguments)
    assert (read.nnodes, read.nproc_per_node, read.rdzv_backend) == ("4", "8", "c10d")
    assert read.module and read.training_script == "tglo.cli"
    command, _, *flags = read.training_script_args
    assert command == "train"
    toml = write_toml(config, folder / "run.toml")
    seen: list[TrainConfig] = []

    def train(config: TrainConfig) -> TrainResult:
        seen.append(config)
        return TrainResult(folder, 1, True, None, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tglo.train.train", train)
        assert cli.main(["train", str(toml), *flags, "--engine.kind", "deepspeed"]) == 0
    assert seen[0].engine.zero_stage == 2


def test_a_rendezvous_whose_name_does_not_resolve_is_a_line(tmp_path: Path) -> None:
    """torchrun, which would end with a traceback, is not started."""
    (tmp_path / "torchrun").write_text('#!/bin/sh\ntouch "$READY"\n')
    (tmp_path / "torchrun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "READY": str(tmp_path / "ready")}
    place = {"HEAD": "nowhere.invalid:29400", "RUN": "x", "TGLO_START_TIMEOUT": "0.5"}
    job = subprocess.run(
        [str(LAUNCH / "multi_node.sh"), "run.toml"],
        env=os.environ | environment | place, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert job.returncode == 1 and not (tmp_path / "ready").exists()
    (line,) = job.stderr.splitlines()
    assert "the rendezvous is at nowhere.invalid:29400, and nowhere.invalid does not" in line


def test_a_rendezvous_where_something_else_listens() -> None:
    read = runpy.run_path(str(LAUNCH / "meeting_point.py"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = read["problem"](f"127.0.0.1:{port}", limit=1, answer=0.5)
    assert told.startswith(f"what listens at 127.0.0.1:{port} does not answer as torchrun's")
    assert read["problem"](f"127.0.0.1:{port}", limit=1) == ""  # nobody yet
    assert read["problem"]("node0", limit=1).endswith("it must be HOST:PORT")
    assert read["main"](["--standalone", "-m", "tglo.cli"]) == 0


@pytest.mark.parametrize("status", [0, 3])
def test_slurm_file_ends_as_the_run_ends(status: int, tmp_path: Path) -> None:
    job, log = start_job(tmp_path, FINISH=str(status))
    assert job.wait(timeout=20) == status
    assert "requeue" not in log.read_text()
