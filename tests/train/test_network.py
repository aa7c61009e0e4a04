"""What a launcher or a network got wrong ends every rank at once, in a line that names the rank and its host."""

from __future__ import annotations

import socket
import time

import pytest

from tests.ranks import ended
from tests.train.test_distributed import free_port
from tglo.train import meeting_place, network
from tglo.train.launching import check_local_rank

WORKER = """
import os, signal, sys, torch
from datetime import timedelta
import torch.distributed as dist
from tglo.train import processes
if "die" in sys.argv:
    dist.init_process_group = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
try:
    processes.join("gloo", torch.device("cpu"), timedelta(seconds=600))
except Exception as error:
    sys.exit(f"tglo: {error}")
"""
HERE = socket.gethostname()


def endings(*ranks: dict[str, str], arguments: tuple[str, ...] = (), port: int = 0) -> list[str]:
    """The last lines of ranks with these variables beside their own."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port())}
    common = {"WORLD_SIZE": "2", "TGLO_START_TIMEOUT": "3", "GLOO_SOCKET_IFNAME": "lo"}
    found = ended(
        [["-c", WORKER, *(arguments if rank else ())] for rank in range(len(ranks))],
        [{**place, "RANK": str(rank), **common, **own} for rank, own in enumerate(ranks)],
        timeout=50,
    )
    outputs = [output for _, output in found]
    assert not any("Traceback" in output for output in outputs), outputs
    return [output.strip().splitlines()[-1] if output.strip() else "" for output in outputs]


@pytest.mark.parametrize("wrong", [0, 1])
def test_an_interface_that_is_not_there(wrong: int) -> None:
    own: list[dict[str, str]] = [{}, {}]
    own[wrong] = {"GLOO_SOCKET_IFNAME": "eth9"}
    lines = endings(*own)
    said = f"GLOO_SOCKET_IFNAME is 'eth9', and {HERE} has no interface eth9 (up are "
    assert said in lines[wrong]
    assert f"rank {wrong}, on {HERE}, stopped: {said}" in lines[1 - wrong]


def test_another_number_of_processes() -> None:
    first, second = endings({}, {"WORLD_SIZE": "3"})
    said = f"WORLD_SIZE is 3 for rank 1, on {HERE}, and 2 for rank 0, on {HERE}"
    assert said in first and said in second


def test_a_rank_that_is_killed_while_it_joins() -> None:
    start = time.monotonic()
    line, _ = endings({}, {}, arguments=("die",))
    assert time.monotonic() - start < 40
    assert f"rank 1 of 2, on {HERE}, said nothing for 5 s" in line
    assert "was not joined within 3 s" in line


def test_what_listens_there_is_no_store() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = int(other.getsockname()[1])
        line = endings({"RANK": "1"}, port=port)[0]
    assert f"what listens at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT) did not answer" in line


def test_an_address_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGLO_START_TIMEOUT", "1")
    with pytest.raises(
        ValueError, match=r"MASTER_ADDR is '192.0.2.1', and rank 0, on .*, does not"
    ):
        meeting_place.meet("192.0.2.1", free_port(), serving=True, by_launcher=False)


@pytest.mark.parametrize("text", ["", "http", "0", "65536"])
def test_a_port_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", text)
    if not text:
        assert meeting_place.place()[1] == 29500
        return
    with pytest.raises(ValueError, match=f"MASTER_PORT is '{text}'; it must be a number from 1"):
        meeting_place.place()


@pytest.mark.parametrize("names", ["eth9", "=l", "eth9,=x"])
def test_an_interface_for_nccl_that_is_not_there(names: str) -> None:
    with pytest.raises(ValueError, match=f"NCCL_SOCKET_IFNAME is '{names}', and {HERE} has no"):
        network._check_interfaces("NCCL_SOCKET_IFNAME", names, prefixes=True)


@pytest.mark.parametrize("names", ["^docker", "l", "=lo", "eth9,lo"])
def test_interfaces_for_nccl(names: str) -> None:
    network._check_interfaces("NCCL_SOCKET_IFNAME", names, prefixes=True)


def test_more_processes_than_gpus() -> None:
    with pytest.raises(ValueError, match=rf"LOCAL_RANK is 2, and torch finds 2 GPU\(s\) on {HERE}"):
        check_local_rank({"LOCAL_RANK": "2"}, gpus=2)
    with pytest.raises(ValueError, match="LOCAL_RANK is 'x'; it must be a whole number"):
        check_local_rank({"LOCAL_RANK": "x"}, gpus=0)
    check_local_rank({"LOCAL_RANK": "7"}, gpus=8)
    check_local_rank({"LOCAL_RANK": "1"}, gpus=0)  # on CPUs
