"""A launcher that was meant is told of; whatever may be meant as it is, is not."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from tglo.train import EngineConfig, TrainConfig, train
from tglo.train.launching import alone

SHARDED: dict[str, Any] = {"zero_stage": 2}


@pytest.mark.parametrize(
    ("engine", "environment", "gpus", "said"),
    [
        ({}, {"WORLD_SIZE": "4"}, 0, "WORLD_SIZE is 4, but RANK is not set: .*--nproc-per-node 4"),
        (SHARDED, {"SLURM_STEP_NUM_TASKS": "8"}, 1, r"srun started 8 tasks \(SLURM_STEP_NUM_TASKS"),
        (SHARDED, {"OMPI_COMM_WORLD_SIZE": "2"}, 1, "mpirun started 2 tasks"),
        (SHARDED, {}, 4, "zero_stage is 2 and 4 GPUs are there: .*--nproc-per-node 4"),
    ],
)
def test_a_launcher_that_was_meant(
    engine: dict[str, Any], environment: dict[str, str], gpus: int, said: str
) -> None:
    told = alone(EngineConfig(**engine), environment, gpus)
    assert told is not None
    assert re.search(said, told), told
    assert "examples/launch" in told and "torchrun" in told


@pytest.mark.parametrize(
    ("engine", "environment", "gpus"),
    [
        ({}, {}, 0),
        ({}, {}, 8),  # the others may be for something else
        (SHARDED, {"RANK": "0", "WORLD_SIZE": "4"}, 4),  # started by a launcher
        (SHARDED, {"RANK": "0", "WORLD_SIZE": "1"}, 4),
        ({}, {"WORLD_SIZE": "1"}, 0),
        ({}, {"WORLD_SIZE": "many"}, 0),  # refused elsewhere
        (SHARDED, {"SLURM_NTASKS": "8"}, 1),  # a batch script's own process, before srun
        ({}, {"SLURM_STEP_NUM_TASKS": "8"}, 1),  # each task a run of its own
        (SHARDED, {"SLURM_STEP_NUM_TASKS": "1"}, 1),
        ({**SHARDED, "offload_optimizer": True}, {}, 4),  # for memory, on one GPU
        ({**SHARDED, "device": "cuda:1"}, {}, 4),  # this one
        ({**SHARDED, "device": "cpu"}, {}, 4),
    ],
)
def test_no_false_alarm(engine: dict[str, Any], environment: dict[str, str], gpus: int) -> None:
    assert alone(EngineConfig(**engine), environment, gpus) is None


def test_a_run_says_it_before_anything_else(
    make_config: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)  # DeepSpeed in one process leaves it
    with caplog.at_level(logging.WARNING, "tglo"), pytest.raises(ValueError, match="one process"):
        train(make_config())  # engine.kind = plain
    assert "WORLD_SIZE is 4, but RANK is not set" in caplog.messages[0]
