"""What a launcher told this process: whether it trains alone where several were evidently meant, and its GPU."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from tglo.devices import process
from tglo.train import processes
from tglo.train.config import EngineConfig, TrainConfig

log = logging.getLogger("tglo")
# A scheduler's or MPI's own count of the tasks that it started together with this one.
_TASKS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
}


def warn_if_alone(config: TrainConfig) -> None:
    """Log a warning where a launcher was meant; call it before the process group is joined."""
    problem = alone(config.engine, os.environ, torch.cuda.device_count())
    if problem is not None:
        log.warning("%s", problem)


@contextmanager
def meeting_others(engine: EngineConfig) -> Iterator[None]:
    """Where a launcher started several processes, meet them first: an error in the block ends all of them."""
    if engine.kind == "plain" or not processes.launched() or process()[1] == 1:
        yield
        return
    with processes.starting():
        if engine.device in ("auto", "cuda"):
            check_local_rank(os.environ, torch.cuda.device_count())
        yield


def check_local_rank(environment: Mapping[str, str], gpus: int) -> None:
    """Raise ValueError where a machine has more processes than GPUs."""
    text = environment.get("LOCAL_RANK", "0")
    if not text.isdecimal():
        raise ValueError(
            f"LOCAL_RANK is {text!r}; it must be a whole number, from 0 on each machine"
        )
    if 0 < gpus <= int(text):
        raise ValueError(
            f"LOCAL_RANK is {text}, and torch finds {gpus} GPU(s) on {socket.gethostname()}: start one process for "
            "each GPU (torchrun --nproc-per-node), and see nvidia-smi and CUDA_VISIBLE_DEVICES there"
        )


def alone(engine: EngineConfig, environment: Mapping[str, str], gpus: int) -> str | None:
    """Say why this process seems to lack a launcher, and what starts one; None where all is well.

    Only where no other meaning is left. WORLD_SIZE without RANK has none. Tasks of srun or mpirun, and several
    GPUs, may each be for a run of their own, unless the run shards its state, which one process cannot.
    """
    if "RANK" in environment:
        return None
    world_size, sharded = _number(environment.get("WORLD_SIZE")), engine.zero_stage > 0
    if world_size > 1:
        return _told(f"WORLD_SIZE is {world_size}, but RANK is not set", world_size)
    if not sharded:
        return None
    for name, launcher in _TASKS.items():
        if (tasks := _number(environment.get(name))) > 1:
            reason = f"{launcher} started {tasks} tasks ({name}), but RANK is not set"
            return _told(f"engine.zero_stage is {engine.zero_stage} and {reason}", tasks)
    offloads = engine.offload_optimizer or engine.offload_parameters  # useful in one process
    if gpus > 1 and engine.device in ("auto", "cuda") and not offloads:
        return _told(f"engine.zero_stage is {engine.zero_stage} and {gpus} GPUs are there", gpus)
    return None


def _told(reason: str, processes: int) -> str:
    return (
        f"{reason}: this process trains alone, on one device. Start {processes} with torchrun "
        f"--nproc-per-node {processes} -m tglo.cli train CONFIG.toml; examples/launch has scripts for one node, "
        "several, and Slurm"
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
