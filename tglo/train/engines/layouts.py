"""How a checkpoint lays out weights and optimizer state, and which checkpoints a run can resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tglo.train.engines import shards
from tglo.train.engines.optimizers import ELEMENTWISE
from tglo.train.engines.shards import Shards
from tglo.train.engines.whole import Whole

TAG = "deepspeed"
"""The folder of DeepSpeed's own format, which earlier versions wrote: pickles for one number of processes."""


class Layout(NamedTuple):
    """Who wrote a checkpoint, or will resume from one."""

    engine: str
    processes: int
    stage: int
    """Of ZeRO; 0 with the plain engine."""

    def __str__(self) -> str:
        if self.engine == "plain":
            return "one process with engine.kind = plain"
        many = "one process" if self.processes == 1 else f"{self.processes} processes"
        return f"{many} with engine.kind = deepspeed and zero_stage = {self.stage}"


def layout_of(engine: str, processes: int, config: dict[str, Any]) -> Layout:
    """Return the layout of a run; config: its configuration as JSON."""
    stage = config["engine"].get("zero_stage", 0) if engine == "deepspeed" else 0
    return Layout(engine, processes, int(stage))


def open_stored(folder: Path) -> Whole | Shards:
    """Return the reader of a checkpoint that is not in DeepSpeed's own format."""
    return Shards(folder) if shards.there(folder) else Whole(folder)


def in_deepspeeds_format(folder: Path) -> bool:
    """Say whether a checkpoint is in DeepSpeed's own format."""
    return (folder / TAG).is_dir()


def refusal(folder: Path, optimizer: str, then: Layout, now: Layout) -> str:
    """Say why a checkpoint of layout `then` cannot be restored in layout `now`, and what to do; "" where it can.

    optimizer: its name, or "" where weights are all that is wanted.
    """
    if then == now:
        return ""
    if in_deepspeeds_format(folder):
        return (
            f"{folder} was written by an earlier tglo in DeepSpeed's own format, which only {then} can "
            "resume. Start it so; its next checkpoint resumes with any number of processes"
        )
    whole = not then.stage and not now.stage
    if whole or not optimizer or optimizer in ELEMENTWISE:
        return ""
    return (
        f"{folder} was written by {then}, and this is {now}: the state of optimizer.name = {optimizer} cannot be "
        "divided in another way. Start it as it was"
    )
