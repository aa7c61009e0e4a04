"""Exchange between the processes of one run: errors, flags, files to hash."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
_joined = False


def launched() -> bool:
    """Say whether a launcher (torchrun, deepspeed, srun with its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    """Return this process's rank, 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(join_group: Callable[[], None]) -> None:
    """Join the run's process group by `join_group`, unless the process is in one already."""
    global _joined
    _joined = _joined or not dist.is_initialized()
    join_group()


def leave_at_exit() -> None:
    """Leave the group that `join` joined when the process ends; called once its work has succeeded.

    A process that only ends may be aborted by threads of the group that still run. After an error
    nothing is left: leaving could wait for processes that wait for this one.
    """
    if _joined:
        atexit.unregister(_leave)
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def gather(value: T) -> list[T]:
    """Return the value (any small picklable object) of each rank, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def together(work: Callable[[], T]) -> T:
    """Run `work` on this rank; if it raised on any rank, raise on every rank.

    A process that leaves alone would let the others wait in their next collective. The rank that
    failed raises its own error, the others a RuntimeError that quotes it.
    """
    error: Exception | None = None
    result: Any = None
    try:
        result = work()
    except Exception as caught:
        error = caught
    messages = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"rank {index} stopped: {message}")
    return result


def on_main(work: Callable[[], T]) -> T | None:
    """Run `work` on rank 0 only (it must not communicate); an error there stops every rank."""
    return together(lambda: work() if rank() == 0 else None)


def reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def mean(values: torch.Tensor) -> torch.Tensor:
    """Average a tensor over the processes; a new one where there are several."""
    count = world_size()
    return reduce_sum(values.clone()) / count if count > 1 else values


def reduce_max(values: torch.Tensor) -> torch.Tensor:
    """Take the elementwise maximum of a tensor over the processes, in place."""
    if world_size() > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values
