"""A run's checkpoint: what is in it, and whether it is written while training continues."""

from __future__ import annotations

import logging
import math
import socket
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from tglo.train import host_memory, processes
from tglo.train.config_files import to_plain
from tglo.train.contents import Files, HostCopy, files_of, host_size, size, write
from tglo.train.ema import Ema
from tglo.train.reference_policy import Reference
from tglo.train.run import Run
from tglo.train.saved_state import SavedState

log = logging.getLogger("tglo")
SHARE = 0.5
"""Of the available host memory, at most, that `auto` takes for the copy."""


class Saver:
    """Writes the checkpoints of a run: each rank its files."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._copy = HostCopy()
        self._background: bool | None = None
        self._others: list[Ema | Reference] = [] if run.ema is None else [run.ema]
        if run.config.objective.update_reference_every_epoch:
            assert run.reference is not None
            self._others.append(run.reference)

    def save(self, step: int, *, last: bool) -> None:
        """Write the checkpoint after `step` updates; collective. CheckpointError, also of the one before.

        Where it is written in the background, return when the state is copied. The last one is written at
        once: nothing goes on meanwhile, and a copy would be for nothing.
        """
        # Before a rank may fail alone: putting the average together is a collective.
        with nullcontext() if self.run.ema is None else self.run.ema.gathered():
            self._save(step, last)

    def _save(self, step: int, last: bool) -> None:
        run, state = self.run, _state(self.run, step).plain()
        ema = 0 if run.ema is None else size(run.ema.files())
        needed = max(processes.gather(run.engine.checkpoint_bytes() + ema))
        copied = None if last else self._copied(files_of([run.engine, *self._others]))
        if copied is not None:
            names, work = tuple(copied), partial(write, copied)
            run.checkpoints.start(step, work, state, needed, names)
            return

        def write_all(folder: Path) -> None:
            for part in (run.engine, *self._others):
                part.save(folder)

        run.checkpoints.save(step, write_all, state, needed)

    def _copied(self, files: Files) -> Files | None:
        """Copy the files where checkpoints are written in the background, after the one before; else None."""
        if not self._in_background(host_size(files)):
            return None
        self.run.checkpoints.wait()  # until then the copy's memory is read
        taken, failed = None, None
        try:
            taken = self._copy.take(files)
        except (MemoryError, RuntimeError) as error:  # torch's is no MemoryError
            failed = str(error)
        failures = [text for text in processes.gather(failed) if text is not None]
        if not failures:
            return taken
        if processes.rank() == 0:
            log.warning(
                "checkpoints are written while training waits from now on: their copy in host memory failed (%s)",
                failures[0],
            )
        self._copy, self._background = HostCopy(), False
        return None

    def _in_background(self, copied: int) -> bool:
        """Decide at the first checkpoint, when the optimizer has its state; copied: bytes."""
        if self._background is None:
            self._background, why = _decide(self.run.config.output.async_save, copied)
            where = "in the background" if self._background else "while training waits"
            if processes.rank() == 0:
                log.info("checkpoints are written %s (%s)", where, why)
        return self._background


def _decide(setting: str, copied: int) -> tuple[bool, str]:
    """Return the same on every rank; collective. What counts is the fullest host, with the copies of its ranks."""
    hosts: dict[str, tuple[int, float]] = {}
    here = (socket.gethostname(), copied, host_memory.available())
    for host, count, left in processes.gather(here):
        before, least = hosts.get(host, (0, math.inf))
        hosts[host] = before + count, least if left is None else min(left, least)
    total, free = max(hosts.values(), key=lambda found: found[0] / max(found[1], 1))
    copy = f"a copy of {total / 1e9:.2f} GB in host memory"
    if setting != "auto":
        return setting == "on", f"output.async_save = {setting}"
    if free == math.inf:
        return True, f"from {copy}"
    if total <= SHARE * free:
        return True, f"from {copy}, where {free / 1e9:.1f} GB are free"
    return False, f"{copy} would be more than half of the {free / 1e9:.1f} GB that are free"


def _state(run: Run, step: int) -> SavedState:
    weighing = run.batches.samples.weighing
    return SavedState(
        step=step,
        temperature=run.temperature.state(),
        objective=run.objective.state(),
        engine=run.engine.name,
        world_size=processes.world_size(),
        config=to_plain(run.config),
        data={**run.digests, **run.base.digests()},
        order=run.order,
        epoch=run.epoch(step),
        shift=run.batches.shift,
        noise_floor=run.noise_floor,
        weighing=None if weighing is None else weighing.plain(),
    )
