"""The guard between a gradient and the weights, and the seeds that make dropout reproducible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tglo.objectives.micro_batch import BatchIds
from tglo.train import processes
from tglo.train.engines.choose import Engine
from tglo.train.engines.plain import PlainEngine


def seed_dropout(seed: int, step: int, micro: int) -> None:
    """Seed torch's generators, which only dropout uses, by position: a resumed run repeats."""
    position = (seed * 1_000_003 + step) * 4099 + micro
    torch.manual_seed((position * 4099 + processes.rank()) % 2**63)


class Guard:
    """Keeps weights from changing by a loss or gradient that is not finite; every rank stops.

    Where the engine can stop an update on the device, the host does not wait for the step: it looks
    at a step's verdict when the next step is about to update, or when `settle` asks. Else it
    looks before each update: one small collective and one look at the device.
    """

    def __init__(self, engine: Engine, watch_gradients: bool) -> None:
        self.engine = engine
        self.watch_gradients = watch_gradients
        self._pending: _Verdict | None = None

    def check(
        self, step: int, losses: Tensor, seen: list[BatchIds], asked: tuple[bool, bool]
    ) -> tuple[bool, bool]:
        """Judge step `step` (from 0) before its update; collective.

        losses: () float64, the sum of its losses on the device. asked: whether this rank was asked to stop, and
        whether it writes a checkpoint; returns whether any rank was, and does. Raises FloatingPointError on every rank
        for this step, or for the one before.
        """
        bad = torch.isfinite(losses).logical_not()
        if self.watch_gradients:
            bad = bad | self.engine.gradient_is_bad()
        # DeepSpeed's own update reads the device anyway.
        if isinstance(self.engine, PlainEngine) and self.engine.stops_on_device:
            self.engine.stop_if(bad)
            verdict = _Verdict.copy(step, bad, losses, seen)
            self.settle()  # the device is busy with this step while the host reads the one before
            self._pending = verdict
            return asked
        flags = torch.cat([bad.view(1), torch.tensor(asked, device=bad.device)]).to(torch.int32)
        any_bad, stopping, writing = processes.reduce_max(flags).tolist()
        if any_bad:
            _refuse(step, bool(bad), float(losses), seen)
        return bool(stopping), bool(writing)

    def settle(self) -> None:
        """Wait for the newest verdict; FloatingPointError if that step was stopped."""
        verdict, self._pending = self._pending, None
        if verdict is None:
            return
        if verdict.copied is not None:
            verdict.copied.synchronize()
        bad, loss = verdict.values.tolist()
        if bad:
            _refuse(verdict.step, True, loss, verdict.seen)


@dataclass(frozen=True, eq=False)
class _Verdict:
    step: int
    values: Tensor
    """(2,) float64 on the host: 1 if the step is bad, and its loss."""
    copied: torch.cuda.Event | None
    seen: list[BatchIds]

    @classmethod
    def copy(cls, step: int, bad: Tensor, losses: Tensor, seen: list[BatchIds]) -> _Verdict:
        """Start the copy to the host."""
        values = torch.stack([bad.to(losses.dtype), losses])
        if values.device.type != "cuda":
            return cls(step, values.cpu(), None, seen)
        host = torch.empty(2, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return cls(step, host, copied, seen)


def _refuse(step: int, bad: bool, loss: float, seen: list[BatchIds]) -> None:
    mine = None
    if bad:
        ids = [sample for batch in seen for sample in batch.samples]
        mine = (loss, ids, [line for batch in seen for line in batch.lines])
    found = {rank: entry for rank, entry in enumerate(processes.gather(mine)) if entry is not None}
    places = "; ".join(
        f"rank {rank}: loss {value:.4g}, samples {ids[:8]} (manifest lines {lines[:8]})"
        for rank, (value, ids, lines) in found.items()
    )
    raise FloatingPointError(
        f"step {step + 1}: loss or gradient is not finite, no weight was changed. {places}. "
        "Look at these samples, lower optimizer.learning_rate, or use engine.precision = fp32; "
        "the same command resumes from the last checkpoint"
    )
