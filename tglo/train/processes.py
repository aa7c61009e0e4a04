"""Exchange between the processes of one run: errors, flags, files to hash."""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from tglo.devices import process
from tglo.stopping import Lost
from tglo.train.in_time import NotInTimeError, in_time
from tglo.train.network import check_network
from tglo.train.roll_call import ERROR, RollCall
from tglo.train.stuck import ended_if_stuck

T = TypeVar("T")
_roll_call: RollCall | None = None  # of a group that this module joined
_alone = False  # inside on_main's work


def launched() -> bool:
    """Say whether a launcher (torchrun, deepspeed, srun with its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return this process's rank, 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(backend: str, device: torch.device, timeout: timedelta) -> None:
    """Join the launcher's process group, unless the process is in one already.

    timeout: of a collective; a rank waits up to it while another one writes a checkpoint. TimeoutError
    naming the ranks that do not come (see tglo.train.roll_call). The group is left when the process
    ends: a process that only ends may be aborted by threads of the group that still run.
    """
    global _roll_call
    if dist.is_initialized():
        return
    with starting():
        assert _roll_call is not None
        rank, size = process()
        _roll_call.agree(WORLD_SIZE=str(size), device=device.type)
        _roll_call.wait_for_all("start")
        if size > 1:
            check_network(_roll_call, backend)
        atexit.register(_leave)
        _roll_call.start_answering()
        with ended_if_stuck(_roll_call):
            dist.init_process_group(
                backend,
                store=_roll_call.store,
                rank=rank,
                world_size=size,
                timeout=timeout,
                device_id=device if device.type == "cuda" and size > 1 else None,
            )
            _roll_call.wait_for_all("join the group")


@contextmanager
def starting() -> Iterator[None]:
    """Meet the launcher's other processes, and do what comes before they are a group: an error of one of them ends
    the others too, at once and in its words.
    """
    global _roll_call
    if _roll_call is None:
        _roll_call = RollCall.of_launcher()
    try:
        yield
    except Exception as error:
        if not dist.is_initialized():
            _roll_call.tell(error)
        raise


def _leave(limit: float = 10.0) -> None:
    """Leave the group, without waiting longer than `limit` seconds for processes that may hang."""
    if _roll_call is not None:
        _roll_call.stop_answering()
    if dist.is_initialized():
        with suppress(NotInTimeError):
            in_time(dist.destroy_process_group, limit)


def gather(value: T) -> list[T]:
    """Return the value (any small picklable object) of each rank, in order of rank, on every rank."""
    _refuse_alone()
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    try:
        if _roll_call is not None:
            _roll_call.meet()
        dist.all_gather_object(values, value)
    except RuntimeError as error:
        absent = _absent()
        if not absent:
            raise
        raise Lost(
            f"{absent} of {world_size()} did not come to where rank {rank()} waits: it ended or cannot "
            f"be reached; look at its output ({error})"
        ) from error
    return values


def _absent(limit: float = 5.0) -> str:
    """Name the ranks that did not come to this one's last meeting; "" if all did, or nobody can tell. From a host that
    is cut off an answer takes as long as the system sends again, a quarter of an hour.
    """
    if _roll_call is None:
        return ""
    try:
        return in_time(_roll_call.absent, limit)
    except NotInTimeError:
        return "rank 0, or the launcher"


def lost_peers(note: str, wait: float) -> tuple[str, bool]:
    """Tell the others that this rank cannot go on, and name those that say nothing within `wait` seconds, or one
    that failed, and True; "" if all of them only wait as well. Not a collective: for any thread, at any time.
    """
    if _roll_call is None or world_size() == 1:
        return "", False
    call = _roll_call

    def ask() -> tuple[str, bool]:
        call.note(note)
        return call.silent(wait)

    try:
        return in_time(ask, 2 * wait + 1)
    except (NotInTimeError, RuntimeError):  # the store has gone, or does not answer
        return f"the store at {call.place}, of the launcher or rank 0, cannot be reached", False


@contextmanager
def naming_lost_peers(wait: float = 5.0) -> Iterator[None]:
    """Where a rank is gone, collectives of the others fail with the words of a transport: raise Lost, which names
    the rank and its host, or what it stopped with.
    """
    try:
        yield
    except Lost:
        raise
    except RuntimeError as error:
        text = " ".join(str(error).split())
        ours = re.match(r"rank \d+ stopped: ", text) is not None or not _of_transport(text)
        note = f"{ERROR}{type(error).__name__}: {text}"[:2000] if ours else "a peer is gone"
        lost, failed = lost_peers(note, 0 if ours else wait)
        if ours or not lost:
            raise
        kind = RuntimeError if failed else Lost
        line = f"{lost}. Rank {rank()} ends; the same command resumes ({text[:200]})"
        raise kind(line) from error


def _of_transport(text: str) -> bool:
    return any(word in text for word in ("gloo", "NCCL", "Connection", "recvValue", "Broken pipe"))


def together(work: Callable[[], T]) -> T:
    """Run `work` on this rank; if it raised on any rank, raise on every rank.

    A process that leaves alone would let the others wait in their next collective, also where a
    signal, or a library's exception of no common class, ends it. The rank that failed raises its own
    error, the others a RuntimeError that quotes it.
    """
    error: BaseException | None = None
    result: Any = None
    try:
        result = work()
    except BaseException as caught:
        error = caught
    messages = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"rank {index} stopped: {message}")
    return result


def on_main(work: Callable[[], T]) -> T | None:
    """Run `work` on rank 0 only; an error there stops every rank. RuntimeError if it communicates."""

    def alone() -> T:
        global _alone
        before, _alone = _alone, True
        try:
            return work()
        finally:
            _alone = before

    return together(lambda: alone() if rank() == 0 else None)


def _refuse_alone() -> None:
    if _alone:
        raise RuntimeError("a collective inside on_main, where one rank alone would wait for ever")


def from_main(work: Callable[[], T]) -> T:
    """Run `work` as `on_main` does, and return on every rank what it returned (any picklable object)."""
    result: Any = gather(on_main(work))[0]
    return cast(T, result)


def reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the processes, in place."""
    _refuse_alone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def sum_on_main(values: torch.Tensor) -> None:
    """Sum a tensor over the processes, in place, on rank 0; what the others have then is undefined."""
    _refuse_alone()
    if world_size() > 1:
        dist.reduce(values, 0)


def mean(values: torch.Tensor) -> torch.Tensor:
    """Average a tensor over the processes; a new one where there are several."""
    _refuse_alone()
    count = world_size()
    return reduce_sum(values.clone()) / count if count > 1 else values


def reduce_max(values: torch.Tensor) -> torch.Tensor:
    """Take the elementwise maximum of a tensor over the processes, in place."""
    _refuse_alone()
    if world_size() > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values
