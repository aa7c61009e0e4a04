"""Ranks that are not alike are refused at the start, and the line names one and what it has."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import ended
from tests.train.conftest import write_toml
from tests.train.test_distributed import free_port
from tglo.stopping import RESTART
from tglo.train import TrainConfig, processes, same_ranks

pytest.importorskip("deepspeed")
Make = Callable[..., TrainConfig]
WORKER = """
import sys
from importlib import metadata
from pathlib import Path
import torch
from tglo import cli
from tglo.train import same_ranks
version, (other, *arguments) = metadata.version, sys.argv[1:]
metadata.version = lambda name: "0.1" if name == other else version(name)
same_ranks.SHARED_SECONDS = 1.0
if other == "read-only":
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")
    Path.touch = refuse
if other == "weights":
    from tglo.train import run
    compare = run.refuse_weights_apart
    def other_weights(module):
        with torch.no_grad():
            next(module.parameters()).add_(1)
        compare(module)
    run.refuse_weights_apart = other_weights
sys.exit(cli.main(["train", *arguments]))
"""


def endings(
    toml: Path, *flags: list[str], port: int | None = None, address: str = "127.0.0.1"
) -> list[str]:
    """The last lines of ranks, of two, with these arguments: what one has otherwise, and flags. All end with 1."""
    outputs = outputs_of(toml, *flags, port=port, address=address)
    return [output.strip().splitlines()[-1] for output in outputs]


def outputs_of(
    toml: Path, *flags: list[str], port: int | None = None, address: str = "127.0.0.1"
) -> list[str]:
    """All that these ranks say."""
    place = {"MASTER_ADDR": address, "MASTER_PORT": str(port or free_port())}
    common = {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "TGLO_START_TIMEOUT": "3"} | place
    found = ended(
        [["-c", WORKER, own[0], str(toml), *own[1:]] for own in flags],
        [
            {
                **common,
                **{"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
                **dict(variable.split("=") for variable in own[0].split() if "=" in variable),
            }
            for rank, own in enumerate(flags)
        ],
        timeout=60,
    )
    outputs = [output for _, output in found]
    waited = ["could not be reached" in output for output in outputs]
    assert [status for status, _ in found] == [RESTART if w else 1 for w in waited], outputs
    return outputs


@pytest.fixture
def toml(make_config: Make, square_cache: Path, tmp_path: Path) -> Path:
    config = make_config(
        data={"cache": str(square_cache)}, engine={"kind": "deepspeed", "zero_stage": 2}
    )
    return write_toml(config, tmp_path / "run.toml")


def test_another_configuration_is_named(toml: Path) -> None:
    for line in endings(toml, [""], ["", "--optimizer.learning-rate", "0.5", "--model.path", "x"]):
        assert "rank 1, on " in line and "has optimizer.learning_rate = 0.5, and rank 0, on" in line


def test_another_version_is_named(toml: Path) -> None:
    for line in endings(toml, [""], ["deepspeed"]):
        assert "rank 1, on " in line and "has deepspeed 0.1, and rank 0, on" in line


def test_an_output_folder_of_its_own_is_named(toml: Path, tmp_path: Path) -> None:
    own = tmp_path / "elsewhere"
    own.mkdir()
    for line in endings(toml, [""], ["", "--output.folder", str(own)]):
        assert "rank 1, on " in line and "does not see the output folder of rank 0" in line
    assert not list(tmp_path.rglob(same_ranks.MARK))


def test_an_output_folder_that_is_read_only_there(toml: Path) -> None:
    """What is only warned of is said before."""
    for line in endings(toml, [""], ["read-only"]):
        assert "rank 1, on " in line and "cannot write to the output folder" in line
        assert "Read-only file system. Each rank" in line


def test_other_settings_of_the_environment_are_named(toml: Path) -> None:
    for line in endings(toml, [""], ["TGLO_BACKEND=reference"]):
        assert (
            "has TGLO_BACKEND 'reference', and rank 0, on " in line and "not set: the env" in line
        )


def test_other_weights_are_named(toml: Path) -> None:
    for line in endings(toml, [""], ["weights"]):
        assert "rank 1, on " in line and "has read other weights from model.path than" in line


def test_a_clock_ahead_and_little_memory_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpus = iter(["one of 24 GiB", "other of 80 GiB"])

    def gather(mine: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        clock, _, _, _ = mine
        first = (clock, "host-a", next(gpus), 64 * 2**30)
        return [first, (clock + 7200, "host-b", next(gpus), 8 * 2**30)]

    monkeypatch.setattr(processes, "gather", gather)
    with caplog.at_level(logging.WARNING, "tglo"):
        same_ranks._warn_of_machines_apart()
    gpu, clock, memory = caplog.messages
    assert gpu.startswith("rank 1, on host-b, has other of 80 GiB, and rank 0, on host-a, one of")
    assert clock.startswith(
        "rank 1, on host-b, has a clock 7200 s ahead of that of rank 0, on host-a"
    )
    assert memory.startswith("rank 1, on host-b, has 8.0 GiB of free host memory, and rank 0")


def test_a_name_that_does_not_resolve(toml: Path) -> None:
    first, second = endings(toml, [""], [""], address="nowhere.invalid")
    assert "MASTER_ADDR is 'nowhere.invalid', which does not resolve on rank 0" in first
    assert "rank 0 could not be reached at nowhere.invalid:" in second and "within 3 s" in second


def test_a_port_in_use(toml: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = int(taken.getsockname()[1])
        (line,) = endings(toml, [""], port=port)
    assert f"MASTER_PORT is {port}, which another program on rank 0's machine uses" in line


def test_places_may_differ(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_config(data={"cache": "/elsewhere"}, folder="other")

    def gather(mine: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if len(mine) != 3:
            return [mine, mine]
        return [mine, ("host-b", mine[1], same_ranks._flat(same_ranks.to_plain(other)))]

    monkeypatch.setattr(processes, "gather", gather)
    same_ranks.refuse_ranks_apart(make_config())
