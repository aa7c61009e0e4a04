"""The planner: it finds the ZeRO stage and the checkpointing that a run needs on given machines."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any

from tglo.plan import traffic
from tglo.plan.memory import GB, Memory, memory
from tglo.plan.options import CHECKPOINTING, Checkpointing, Options
from tglo.plan.profile import Profile, profile

_TIE = 1.05
_ENOUGH = 1024


@dataclass(frozen=True)
class Variant:
    """One stage with one way of checkpointing."""

    stage: int | None
    """ZeRO stage; None is the plain engine."""
    checkpointing: Checkpointing
    memory: Memory
    fits: bool
    largest_micro_batch: int
    """0 if not even one sample fits."""
    wire_bytes: float
    """Bytes that each GPU sends in an update."""
    wire_seconds: float
    compute_seconds: float

    @property
    def seconds(self) -> float:
        """Seconds of an update, if nothing overlaps."""
        return self.wire_seconds + self.compute_seconds


@dataclass(frozen=True)
class Plan:
    """The planner's answer."""

    options: Options
    profile: Profile
    rows: tuple[Variant, ...]
    best: Variant
    """The smallest stage that fits, among the rows within 5% of the fastest."""
    asked: Variant | None
    """The row of the options' own stage and checkpointing, where they name a stage."""
    reference_factor: float
    """Cost over supervised fine-tuning's; see tglo.plan.traffic."""


def plan(options: Options) -> Plan:
    """Work out a run. Raises ValueError if it fits on no stage: by how much, and what would make it fit."""
    options.check()
    found = _profile(options)
    rows = _rows(options, found)
    fitting = [row for row in rows if row.fits]
    if not fitting:
        raise ValueError(_too_large(options, rows))
    fastest = min(row.seconds for row in fitting)
    near = [row for row in fitting if row.seconds <= _TIE * fastest]
    best = min(near, key=lambda row: (-1 if row.stage is None else row.stage, row.seconds))
    return Plan(
        options, found, rows, best, _asked(options, rows), traffic.reference_factor(options)
    )


def _asked(options: Options, rows: tuple[Variant, ...]) -> Variant | None:
    if options.zero_stage is None:
        return None
    stage = None if options.zero_stage == "plain" else options.zero_stage
    for row in rows:
        if (row.stage, row.checkpointing) == (stage, options.gradient_checkpointing):
            return row
    planned = dict.fromkeys("plain" if row.stage is None else str(row.stage) for row in rows)
    raise ValueError(
        f"zero_stage {options.zero_stage} is not planned for with {options.processes} GPUs, optimizer "
        f"{options.optimizer} and this offloading, but {', '.join(planned)}; give --gpus and --nodes, "
        "or one of these stages"
    )


def _profile(options: Options) -> Profile:
    return profile(
        options.model,
        loading=options.loading,
        lora_rank=options.lora_rank if options.train == "lora" else None,
        resolution=options.resolution,
        height=options.height,
        width=options.width,
        frames=options.frames,
    )


def _stages(options: Options) -> tuple[int | None, ...]:
    # Sharding over one process saves nothing, but DeepSpeed keeps half-precision weights.
    alone = options.processes == 1 and not options.offloads
    stages = (None, 0) if alone else (0, 1, 2, 3)
    return tuple(stage for stage in stages if options.problem_at(stage) is None)


def _rows(options: Options, found: Profile) -> tuple[Variant, ...]:
    capacity = options.gpu_memory * GB
    rows = []
    for stage in _stages(options):
        for checkpointing in CHECKPOINTING:
            used = memory(options, found, stage, checkpointing)
            rows.append(
                Variant(
                    stage=stage,
                    checkpointing=checkpointing,
                    memory=used,
                    fits=used.total <= capacity,
                    largest_micro_batch=_largest(options, found, stage, checkpointing),
                    wire_bytes=traffic.wire_bytes(options, found.sizes, stage),
                    wire_seconds=traffic.wire_seconds(options, found.sizes, stage),
                    compute_seconds=traffic.compute_seconds(options, found, checkpointing),
                )
            )
    return tuple(rows)


def _largest(
    options: Options, found: Profile, stage: int | None, checkpointing: Checkpointing
) -> int:
    """Return the largest micro batch that fits; the memory grows with it."""

    def total(micro_batch: int) -> float:
        trial = replace(options, micro_batch=micro_batch)
        return memory(trial, found, stage, checkpointing).total

    return bisect_right(range(1, _ENOUGH + 1), options.gpu_memory * GB, key=total)


def _too_large(options: Options, rows: tuple[Variant, ...]) -> str:
    least = min(rows, key=lambda row: row.memory.total)
    over = least.memory.total / GB - options.gpu_memory
    smaller = max(row.largest_micro_batch for row in rows)
    changes: list[tuple[str, dict[str, Any]]] = [
        (f"--micro-batch {smaller}", {"micro_batch": max(1, smaller)}),
        ("--reference cached", {"reference": "cached"}),
        ("no --ema", {"ema": False}),
        ("--base-weights half", {"base_weights": "half"}),
        ("--base-weights int8", {"base_weights": "int8"}),
        ("--base-weights nf4", {"base_weights": "nf4"}),
        ("--offload-optimizer", {"offload_optimizer": True}),
        ("--offload-optimizer --offload-parameters",
         {"offload_optimizer": True, "offload_parameters": True}),
        ("--train lora", {"train": "lora"}),
        (f"--gpus {2 * options.gpus}", {"gpus": 2 * options.gpus}),
    ]  # fmt: skip
    remedies = []
    for flag, change in changes:
        other = replace(options, **change)
        if other == options or other.problem():
            continue
        if any(row.fits for row in _rows(other, _profile(other))):
            remedies.append(flag)
    if remedies:
        advice = f"one of these makes it fit: {', '.join(remedies)}"
    else:
        advice = "no single change makes it fit; use LoRA with a small batch, or larger GPUs"
    where = "plain engine" if least.stage is None else f"ZeRO {least.stage}"
    return (
        f"{options.model} ({options.train}, micro batch {options.micro_batch}) needs "
        f"{least.memory.total / GB:.1f} GB at the least ({where}, checkpointing "
        f"{least.checkpointing}), {over:.1f} GB more than the GPU's {options.gpu_memory:g} GB; "
        f"{advice}"
    )
