"""The planner's answer as text, as TOML keys and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from tglo.columns import aligned
from tglo.plan.caches import caches
from tglo.plan.memory import GB, Memory, checkpoint
from tglo.plan.options import Options
from tglo.plan.planner import Plan, Variant


def stage_name(row: Variant) -> str:
    """Return ``ZeRO 2``, or ``plain`` without DeepSpeed."""
    return "plain" if row.stage is None else f"ZeRO {row.stage}"


Columns = dict[str, Callable[[Variant], str]]
"""Heading -> a row's cell."""


def _gb(size: Callable[[Memory], float]) -> Callable[[Variant], str]:
    return lambda row: f"{size(row.memory) / GB:.1f}"


_NAMES: Columns = {"stage": stage_name, "checkpointing": lambda row: row.checkpointing}
MEMORY: Columns = {
    **_NAMES,
    "weights": _gb(lambda memory: memory.states.weights),
    "gradients": _gb(lambda memory: memory.states.gradients),
    "optimizer": _gb(lambda memory: memory.states.optimizer),
    "extra": _gb(lambda memory: memory.extra),
    "working": _gb(lambda memory: memory.working),
    "reserve": _gb(lambda memory: memory.reserve),
    "total": _gb(lambda memory: memory.total),
    "fits": lambda row: "yes" if row.fits else "no",
    "largest micro batch": lambda row: str(row.largest_micro_batch),
}
"""The table of memory, in GB."""
SPEED: Columns = {
    **_NAMES,
    "sent GB": lambda row: f"{row.wire_bytes / GB:.1f}",
    "sending s": lambda row: f"{row.wire_seconds:.3f}",
    "computing s": lambda row: f"{row.compute_seconds:.3f}",
    "share": lambda row: f"{row.wire_seconds / row.compute_seconds:.0%}",
}


def lines(columns: Columns, rows: Iterable[Variant]) -> list[list[str]]:
    """Return the table's lines of cells, the headings first."""
    return [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]


def answer(plan: Plan, row: Variant | None = None) -> str:
    """Return a row, by default the recommended one, in one line."""
    row = row or plan.best
    return (
        f"{stage_name(row)}, checkpointing {row.checkpointing}, "
        f"{row.memory.total / GB:.1f} of {plan.options.gpu_memory:g} GB, "
        f"micro batch up to {row.largest_micro_batch}"
    )


def command(options: Options) -> str:
    """Return the command line that asks for these options."""
    words = ["tglo plan"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in ("model", "gpus", "gpu_memory", "train") or value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            if not isinstance(value, bool):
                words.append(f"{value:g}" if isinstance(value, float) else str(value))
    return " ".join(words)


def toml(plan: Plan) -> str:
    """Return the keys of a training configuration that follow from the plan."""
    options, best = plan.options, plan.best
    lines = [
        "[model]",
        f'train = "{options.train}"',
        *([f"lora_rank = {options.lora_rank}"] if options.train == "lora" else []),
        *(
            [f'base_weights = "{options.base_weights}"']
            if options.base_weights != "default"
            else []
        ),
        f'gradient_checkpointing = "{best.checkpointing}"',
        "[objective]",
        'name = "sft"' if options.reference == "none" else f'reference = "{options.reference}"',
        "[optimizer]",
        f'name = "{options.optimizer}"',
        f"micro_batch = {options.micro_batch}",
        f"accumulation = {options.accumulation}",
        "[engine]",
        f'kind = "{"plain" if best.stage is None else "deepspeed"}"',
        f'precision = "{options.precision}"',
        f"zero_stage = {best.stage or 0}",
        *(["offload_optimizer = true"] if options.offload_optimizer else []),
        *(["offload_parameters = true"] if options.offload_parameters else []),
    ]
    return "\n".join(lines)


def report(plan: Plan) -> str:
    """Return the text that the command prints."""
    options, found = plan.options, plan.profile
    sizes, batch = found.sizes, options.micro_batch * options.accumulation * options.processes
    trained = f"{sizes.trained / 1e6:.1f} million trained of {sizes.all / 1e9:.3f} billion weights"
    fitting = [row for row in plan.rows if row.fits]
    cost = found.cost
    flops = ", ".join(f"{mode} {cost[mode].flops / 1e12:.1f}" for mode in cost)
    peaks = ", ".join(f"{mode} {cost[mode].peak / GB:.2f}" for mode in cost)
    return "\n".join(
        [
            f"{options.model}: {trained}; {found.sample}",
            f"TFLOP per sample: forward {found.forward_flops / 1e12:.2f}; with backward, by "
            f"checkpointing: {flops}",
            f"GB of activations per sample (bf16): {peaks}",
            str(caches(options, found.sample)),
            *_checkpoint(plan),
            f"global batch {batch} = {options.micro_batch} x {options.accumulation} x "
            f"{options.processes} GPUs",
            "",
            "GB per GPU (extra: reference copy and moving average; reserve: assumed)",
            aligned(lines(MEMORY, plan.rows), left=len(MEMORY)),
            "",
            f"per update, at {options.compute:g} TFLOP/s, {options.interconnect:g} GB/s in a node, "
            f"{options.network:g} GB/s between nodes (assumed)",
            aligned(lines(SPEED, fitting), left=len(SPEED)),
            "",
            f"reference {options.reference}: the run costs {plan.reference_factor:.2f} times "
            "supervised fine-tuning's arithmetic",
            *([f"as asked: {answer(plan, plan.asked)}"] if plan.asked else []),
            f"recommended: {answer(plan)}",
            "",
            toml(plan),
        ]
    )


def _checkpoint(plan: Plan) -> list[str]:
    if all(row.stage is not None for row in plan.rows):
        return []
    copied = checkpoint(plan.options, plan.profile.sizes) / GB
    return [
        f"checkpoint of the plain engine: {copied:.3g} GB, written in the background from a copy that takes as "
        "much host memory (output.async_save)"
    ]


def as_json(plan: Plan) -> dict[str, Any]:
    """Return all numbers in bytes, FLOP and seconds, as plain data."""
    data = dataclasses.asdict(plan)
    data["caches"] = dataclasses.asdict(caches(plan.options, plan.profile.sample))
    if any(row.stage is None for row in plan.rows):
        data["checkpoint"] = checkpoint(plan.options, plan.profile.sizes)
    entries = [*data["rows"], data["best"], data["asked"]]
    for entry, row in zip(entries, [*plan.rows, plan.best, plan.asked], strict=True):
        if row is not None:
            entry["memory"]["total"] = row.memory.total
            entry["seconds"] = row.seconds
    return data
