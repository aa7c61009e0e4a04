"""Bytes on the wire and seconds of a step."""

from __future__ import annotations

from tglo.plan.memory import GB, WIDTH
from tglo.plan.options import Checkpointing, Options
from tglo.plan.profile import Profile, Sizes


def wire_bytes(options: Options, sizes: Sizes, stage: int | None) -> float:
    """Return the bytes that a GPU sends in one update, over rings.

    An all-reduce of b bytes sends 2 b (n-1)/n, a reduce-scatter or an all-gather b (n-1)/n. In
    DeepSpeed 0.19.8 stages 1 and 2 all-reduce the gradients (use_multi_rank_bucket_allreduce) and
    gather the new weights; stage 2 does the former in every micro step; stage 3 gathers the weights
    in the forward and again in the backward, and reduce-scatters the gradients, in every micro step.
    """
    if stage is None:
        return 0.0
    n, width = options.processes, WIDTH[options.precision]
    ring = (n - 1) / n
    gradients, weights = ring * width * sizes.trained, ring * width * sizes.all
    if stage == 0:
        return 2 * gradients
    if stage < 3:
        return (options.accumulation if stage == 2 else 1) * 2 * gradients + gradients
    return options.accumulation * (2 * weights + gradients)


def wire_seconds(options: Options, sizes: Sizes, stage: int | None) -> float:
    """Return the seconds of an update's communication, not overlapped. The ring's slowest link decides."""
    speed = options.interconnect
    if options.nodes > 1:
        speed = min(speed, options.network)
    return wire_bytes(options, sizes, stage) / (speed * GB)


def compute_seconds(options: Options, found: Profile, checkpointing: Checkpointing) -> float:
    """Return the seconds of an update's arithmetic: policy, recomputation, and a live reference's forward."""
    flops = found.cost[checkpointing].flops
    if options.reference in ("copy", "adapter-off"):
        flops += found.forward_flops
    return flops * options.micro_batch * options.accumulation / (options.compute * 1e12)


def reference_factor(options: Options) -> float:
    """Return the cost of the run over that of supervised fine-tuning, a forward pass being a third of a step.

    A live reference adds a forward to each step; a cached one K forwards per sample once, spread
    over E epochs.
    """
    if options.reference == "none":
        return 1.0
    if options.reference == "cached":
        return 1 + options.draws / (3 * options.epochs)
    return 4 / 3
