"""What stands between a gradient and the weights, and keeps the random state reproducible."""

from __future__ import annotations

import torch
from torch import Tensor

from tglo.train import processes
from tglo.train.batches import Batch
from tglo.train.setup import Parts


def seed_dropout(seed: int, step: int, micro: int) -> None:
    """Seed torch's generators, which only dropout uses, by position: a resumed run repeats."""
    position = (seed * 1_000_003 + step) * 4099 + micro
    torch.manual_seed((position * 4099 + processes.rank()) % 2**63)


def check(parts: Parts, step: int, losses: Tensor, seen: list[Batch], stop_asked: bool) -> bool:
    """Raise FloatingPointError on every rank if any rank's loss or gradient is not finite.

    Returns whether any rank was asked to stop. One small collective and one look at the device.
    """
    wanted = parts.config.engine.find_bad_gradients
    bad_gradient = parts.engine.gradient_is_bad() if wanted else False
    bad = not bool(torch.isfinite(losses)) or bad_gradient
    flags = torch.tensor([bad, stop_asked], dtype=torch.int32, device=parts.engine.device)
    any_bad, stopping = processes.reduce_max(flags).tolist()
    if any_bad:
        _refuse(step, bad, float(losses), seen)
    return bool(stopping)


def _refuse(step: int, bad: bool, loss: float, seen: list[Batch]) -> None:
    mine = None
    if bad:
        ids = [sample for batch in seen for sample in batch.ids]
        mine = (loss, ids, [line for batch in seen for line in batch.lines])
    found = {rank: entry for rank, entry in enumerate(processes.gather(mine)) if entry is not None}
    places = "; ".join(
        f"rank {rank}: loss {value:.4g}, samples {ids[:8]} (manifest lines {lines[:8]})"
        for rank, (value, ids, lines) in found.items()
    )
    raise FloatingPointError(
        f"step {step + 1}: loss or gradient is not finite, no weight was changed. {places}. "
        "Look at these samples, lower optimizer.learning_rate, or use engine.precision = fp32; "
        "the same command goes on from the last checkpoint"
    )
