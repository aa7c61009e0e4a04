"""Two real processes of which one does not come: the other ends soon and names it."""

from __future__ import annotations

import socket

import pytest
import torch.distributed as dist

from tests.ranks import ended
from tests.train.test_distributed import free_port
from tglo.train import processes
from tglo.train.meeting_place import patience
from tglo.train.roll_call import RollCall

WORKER = """
import os, signal, sys, time, torch
from datetime import timedelta
from tglo.train import processes
def die():
    os.kill(os.getpid(), signal.SIGKILL)
rank, ending = int(os.environ["RANK"]), sys.argv[1]
if rank == 1 and ending == "before joining":
    die()
limit = 3 if ending == "store silent" else 60
processes.join("gloo", torch.device("cpu"), timedelta(seconds=limit))
if rank == 1 and ending == "before the first collective":
    die()
print(processes.gather(rank), flush=True)
if ending.endswith("in a step"):
    with processes.naming_lost_peers(wait=2.0):
        if rank == 1 and ending == "killed in a step" or rank == 0 and "store" in ending:
            die()
        if rank == 2:
            time.sleep(4)
        if rank == 1 and ending.startswith("out of memory"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        processes.reduce_sum(torch.ones(3))
if ending == "store gone":
    if rank == 0:
        die()
    time.sleep(1)
    processes.gather(rank)
if ending == "store silent":
    first = processes.gather(os.getpid())[0]
    if rank == 0:
        time.sleep(60)
    os.kill(first, signal.SIGSTOP)
    try:
        processes.gather(rank)
    finally:
        os.kill(first, signal.SIGKILL)
if ending == "collective on rank 0":
    processes.on_main(lambda: processes.gather(0))
if ending.endswith("on rank 1"):
    def work():
        if rank == 1:
            raise ValueError("no such file") if ending.startswith("error") else SystemExit(143)
    processes.together(work)
"""


def start(ending: str, *ranks: int, size: int = 2, patience: str = "4") -> list[tuple[int, str]]:
    """Exit status and output of each of these ranks, of two."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common = {"WORLD_SIZE": str(size), "TGLO_START_TIMEOUT": patience} | place
    own = [{**common, "RANK": str(rank)} for rank in ranks]
    return ended([["-c", WORKER, ending]] * len(ranks), own, timeout=60)


def test_a_rank_killed_before_it_joins_is_named() -> None:
    status, output = start("before joining", 0, 1)[0]
    assert status == 1
    assert "TimeoutError: rank 1 of 2 did not start within 4 s" in output
    assert "TGLO_START_TIMEOUT" in output


def test_a_rank_killed_before_the_first_collective_is_named() -> None:
    status, output = start("before the first collective", 0, 1)[0]
    assert status == 1
    assert "rank 1 of 2 did not" in output


def test_a_rank_0_that_never_starts_is_named() -> None:
    ((status, output),) = start("", 1)
    assert status == 1
    assert "rank 0 could not be reached at 127.0.0.1:" in output and "within 4 s" in output


def test_two_processes_of_one_rank_are_named() -> None:
    ended = start("", 0, 1, 1)
    assert any("ValueError: two processes have RANK 1 at 127.0.0.1:" in text for _, text in ended)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "")])
def test_numbers_that_no_launcher_gives_are_named(
    rank: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=f"RANK is '{rank}' and WORLD_SIZE '{size}'"):
        RollCall.of_launcher()


@pytest.mark.parametrize(
    "ending", ["", "error on rank 1", "signal on rank 1", "collective on rank 0"]
)
def test_every_rank_ends_by_itself(ending: str) -> None:
    """Fault 23 among them: no rank waits, and none is aborted by threads of the group."""
    said = {
        "error on rank 1": ("rank 1 stopped: ValueError: no such file", "ValueError: no such file"),
        "signal on rank 1": ("rank 1 stopped: SystemExit: 143", ""),
        "collective on rank 0": ("a collective inside on_main", "rank 0 stopped: RuntimeError"),
    }
    for rank, (status, output) in enumerate(start(ending, 0, 1, patience="60")):
        own = 143 if ending == "signal on rank 1" and rank == 1 else 1
        assert status == (own if ending else 0), output
        assert "[0, 1]" in output and "terminate called" not in output
        assert not ending or said[ending][rank] in output


@pytest.mark.parametrize("ending", ["out of memory in a step", "killed in a step"])
def test_a_rank_that_ends_in_a_step_is_named_with_its_host_and_error(ending: str) -> None:
    (status, output), (other, said) = start(ending, 0, 1, patience="60")
    here = socket.gethostname()
    assert status == 1
    if ending == "killed in a step":
        assert f"Lost: rank 1 of 2, on {here}, said nothing for 2 s: ended, stopped," in output
    else:  # starting again would not help
        assert f"RuntimeError: rank 1, on {here}, stopped: OutOfMemoryError: CUDA out" in output
        assert other == 1 and "Tried to allocate 2 GiB" in said and "Lost" not in output


def test_a_rank_0_that_ends_in_a_step_is_named_by_its_store() -> None:
    status, output = start("killed with its store in a step", 0, 1, patience="60")[1]
    assert status == 1 and "Exception in thread" not in output
    assert "Lost: the store at 127.0.0.1:" in output and "cannot be reached. Rank 1 ends" in output


def test_a_rank_that_is_only_busy_is_not_taken_for_lost() -> None:
    first = start("killed in a step", 0, 1, 2, size=3, patience="60")[0][1]
    assert "Lost: rank 1 of 3, on " in first


def test_a_collective_on_main_is_refused_in_one_process_too() -> None:
    with pytest.raises(RuntimeError, match="a collective inside on_main"):
        processes.on_main(lambda: processes.gather(1))
    assert processes.gather(1) == [1]


@pytest.mark.parametrize("text", ["nan", "inf", "0", "-1", "", "soon"])
def test_the_patience_is_a_positive_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGLO_START_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"TGLO_START_TIMEOUT is '{text}'; it must be a positive"):
        patience()


def test_a_rank_has_one_note_for_all_its_meetings() -> None:
    store = dist.HashStore()
    first, second = RollCall(store, 0, 2), RollCall(store, 1, 2)
    first.meet()
    assert first.absent() == "rank 1"
    for _ in range(3):
        second.meet()
    assert first.absent() == ""
    assert second.absent() == "rank 0"
    assert store.num_keys() == 2


def test_a_store_that_has_gone_is_told_as_a_rank_that_has() -> None:
    for status, output in start("store gone", 0, 1)[1:]:
        assert status == 1
        assert "rank 0, or the launcher of 2 did not come to where rank 1 waits" in output


def test_a_store_that_only_says_nothing_is_not_waited_for_without_end() -> None:
    """As where a cable is pulled: the connection stays, and no answer comes."""
    status, output = start("store silent", 0, 1)[1]
    assert status == 1
    assert "rank 0, or the launcher of 2 did not come to where rank 1 waits" in output
