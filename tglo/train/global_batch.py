"""The samples of an update, over all processes, when their number changes."""

from __future__ import annotations

from typing import Any

from tglo.train.config import OptimizerConfig


def changed_batch(
    before: dict[str, Any], were: int, now: OptimizerConfig, are: int, unit: int
) -> str:
    """Say how the global batch has changed and what keeps it; "" if it has not.

    before: the optimizer's section of the configuration then, as JSON. were, are: processes then and now. unit:
    samples that stay together, 2 of pairs; a micro batch is a multiple of them.
    """
    then = int(before["micro_batch"]) * int(before["accumulation"]) * were
    batch = now.micro_batch * now.accumulation * are
    if then == batch:
        return ""
    told = f"an update has {batch} samples, where it had {then}"
    share, rest = divmod(then, are)
    if rest or share % unit:
        return f"{told}, which cannot be divided among {are} processes"
    micro = max(
        n
        for n in range(unit, share + 1, unit)
        if share % n == 0 and n <= max(now.micro_batch, unit)
    )
    keeps = f"optimizer.accumulation = {share // micro}"
    if micro != now.micro_batch:
        keeps = f"optimizer.micro_batch = {micro} and {keeps}"
    return f"{told}; {keeps} keeps these"
