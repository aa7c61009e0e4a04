"""Two hosts, each with a network of its own: what they compute, and how one ends when the other is lost."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hosts import PORT, Host, problem, two_hosts
from tests.train.conftest import write_toml
from tests.train.test_distributed import finish, losses, wait_for_step
from tests.train.test_network import WORKER
from tglo.stopping import RESTART
from tglo.train import TrainConfig, train

pytest.importorskip("deepspeed")
Make = Callable[..., TrainConfig]
Hosts = tuple[Host, Host]
LAUNCH = Path(__file__).parents[2] / "examples" / "launch"
STEPS = 16


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if reason := problem():
        pytest.skip(reason)
    with two_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def start_ranks(hosts: Hosts, toml: Path, *flags: str) -> list[subprocess.Popen[str]]:
    """A rank on each host, as srun starts them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(PORT)}
    return [
        host.start(
            "-m", "tglo.cli", "train", str(toml), *flags, RANK=str(rank), LOCAL_RANK="0", **shared
        )
        for rank, host in enumerate(hosts)
    ]


def ended_well(ranks: list[subprocess.Popen[str]]) -> None:
    for rank in ranks:
        output = finish(rank, timeout=100)
        assert rank.returncode == 0, output[-3000:]


def one_process(config: TrainConfig) -> list[float]:
    """The losses of the same run in this process."""
    alone = replace(
        config,
        optimizer=replace(config.optimizer, micro_batch=2 * config.optimizer.micro_batch),
        engine=replace(config.engine, kind="plain", zero_stage=0),
        output=replace(config.output, folder=config.output.folder.with_name("alone")),
    )
    train(alone)
    return losses(alone.output.folder)


def config_of(make_config: Make, cache: Path, stage: int, **engine: object) -> TrainConfig:
    return make_config(
        model={"train": "full"},
        data={"cache": str(cache)},
        optimizer={"steps": STEPS, "micro_batch": 2, "schedule": "constant"},
        engine={"kind": "deepspeed", "zero_stage": stage, **engine},
        output={"save_every": 3, "export": False},
    )


def test_a_host_by_an_interface_that_the_other_does_not_reach(hosts: Hosts) -> None:
    place = {"MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(PORT), "WORLD_SIZE": "2"}
    ranks = [
        host.start("-c", WORKER, RANK=str(rank), GLOO_SOCKET_IFNAME=interface, **place)
        for rank, (host, interface) in enumerate(zip(hosts, ("eth0", "lo"), strict=True))
    ]
    for rank in ranks:
        output = finish(rank, timeout=60)
        line = output.splitlines()[-1]
        assert rank.returncode == 1 and "Traceback" not in output
        assert "rank 0, on host-a, does not reach rank 1, on host-b, at 127.0.0.1" in line
        assert "the address of its interface lo" in line


@pytest.mark.timeout(300)
def test_a_killed_host(hosts: Hosts, make_config: Make, square_cache: Path, tmp_path: Path) -> None:
    """Started by the launch file, torchrun's rendezvous included."""
    config = config_of(make_config, square_cache, stage=2)
    toml = write_toml(config, tmp_path / "run.toml")
    here, other = (
        host.run_file(
            *(str(LAUNCH / "multi_node.sh"), str(toml), "--optimizer.steps", "5000"),
            NODES="2", GPUS="1", HEAD=f"{hosts[0].name}:{PORT}", RUN="two", TMPDIR=str(tmp_path),
            OMP_NUM_THREADS="1",
        )
        for host in hosts
    )  # fmt: skip
    wait_for_step(config.output.folder, 5, here)
    hosts[1].kill()
    start = time.monotonic()
    output = finish(here, timeout=90)
    assert time.monotonic() - start < 60
    assert here.returncode == RESTART, output[-3000:]
    lines = [line for line in output.splitlines() if line.startswith("tglo: ")]
    assert "of 2, on host-b, said nothing for 5 s" in lines[-1], output[-3000:]
    finish(other)
    # Slowed for a while: it takes longer, and nothing else.
    ranks = start_ranks(hosts, toml)
    wait_for_step(config.output.folder, 9, ranks[0])
    hosts[1].kill(signal.SIGSTOP)
    time.sleep(2)
    hosts[1].kill(signal.SIGCONT)
    ended_well(ranks)
    assert losses(config.output.folder) == pytest.approx(one_process(config), rel=1e-5)


@pytest.mark.timeout(300)
def test_a_host_that_is_cut_off(
    hosts: Hosts, make_config: Make, square_cache: Path, tmp_path: Path
) -> None:
    config = config_of(make_config, square_cache, stage=3, hung_seconds=4.0, hung_after=5.0)
    toml = write_toml(config, tmp_path / "run.toml")
    ranks = start_ranks(hosts, toml, "--optimizer.steps", "5000")
    wait_for_step(config.output.folder, 8, ranks[0])
    hosts[1].ip("link", "set", "eth0", "down")
    start = time.monotonic()
    said = [finish(rank, timeout=90) for rank in ranks]
    assert time.monotonic() - start < 60
    place = {"MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(PORT), "WORLD_SIZE": "2"}
    late = hosts[1].start(
        *("-m", "tglo.cli", "train", str(toml)),
        **place, RANK="1", LOCAL_RANK="0", TGLO_START_TIMEOUT="1",
    )  # fmt: skip
    line = finish(late, timeout=60).splitlines()[-1]
    assert late.returncode == RESTART and "Network is unreachable" in line
    hosts[1].ip("link", "set", "eth0", "up")
    assert [rank.returncode for rank in ranks] == [RESTART, RESTART], said
    lines = [text.splitlines()[-1] for text in said]
    assert (
        lines[0].startswith("tglo: rank 0 of 2: step ")
        and "rank 1 of 2, on host-b, said" in lines[0]
    )
    assert f"the store at {hosts[0].address}:{PORT}, of the launcher or rank 0, cannot" in lines[1]
    ended_well(start_ranks(hosts, toml, "--engine.hung-seconds", "600"))
    assert losses(config.output.folder) == pytest.approx(one_process(config), rel=1e-5)
