"""The planner's answer as text, as TOML keys and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from tglo.plan.memory import GB
from tglo.plan.options import Options
from tglo.plan.planner import Plan, Variant

HEADINGS = (
    *("stage", "checkpointing", "weights", "gradients", "optimizer", "extra", "working", "reserve"),
    *("total", "fits", "largest micro batch"),
)
SPEED_HEADINGS = ("stage", "checkpointing", "sent GB", "sending s", "computing s", "share")


def stage_name(stage: int | None) -> str:
    """Return ``ZeRO 2``, or ``plain`` without DeepSpeed."""
    return "plain" if stage is None else f"ZeRO {stage}"


def cells(row: Variant) -> tuple[str, ...]:
    """Return a row of the table of memory under HEADINGS, in GB."""
    states = row.memory.states
    parts = (states.weights, states.gradients, states.optimizer, row.memory.extra)
    sizes = (*parts, row.memory.working, row.memory.reserve, row.memory.total)
    return (
        stage_name(row.stage),
        row.checkpointing,
        *(f"{size / GB:.1f}" for size in sizes),
        "yes" if row.fits else "no",
        str(row.largest_micro_batch),
    )


def speed_cells(row: Variant) -> tuple[str, ...]:
    """Return a row of the table of speed under SPEED_HEADINGS."""
    return (
        stage_name(row.stage),
        row.checkpointing,
        f"{row.wire_bytes / GB:.1f}",
        f"{row.wire_seconds:.3f}",
        f"{row.compute_seconds:.3f}",
        f"{row.wire_seconds / row.compute_seconds:.0%}",
    )


def answer(plan: Plan, row: Variant | None = None) -> str:
    """Return a row, by default the recommended one, in one line."""
    row = row or plan.best
    return (
        f"{stage_name(row.stage)}, checkpointing {row.checkpointing}, "
        f"{row.memory.total / GB:.1f} of {plan.options.gpu_memory:g} GB, "
        f"micro batch up to {row.largest_micro_batch}"
    )


def command(options: Options) -> str:
    """Return the command line that asks for these options."""
    words = ["tglo plan"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in ("model", "gpus", "gpu_memory", "train") or value != field.default:
            name = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}")
            else:
                words.append(
                    f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"
                )
    return " ".join(words)


def toml(plan: Plan) -> str:
    """Return the keys of a training configuration that follow from the plan."""
    options, best = plan.options, plan.best
    lines = [
        "[model]",
        f'train = "{options.train}"',
        *([f"lora_rank = {options.lora_rank}"] if options.train == "lora" else []),
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
    cost = found.cost
    flops = ", ".join(f"{mode} {cost[mode].flops / 1e12:.1f}" for mode in cost)
    peaks = ", ".join(f"{mode} {cost[mode].peak / GB:.2f}" for mode in cost)
    return "\n".join(
        [
            f"{options.model}: {trained}; {found.resolution} pixels",
            f"TFLOP per sample: forward {found.forward_flops / 1e12:.2f}; with backward, by "
            f"checkpointing: {flops}",
            f"GB of activations per sample (bf16): {peaks}",
            f"global batch {batch} = {options.micro_batch} x {options.accumulation} x "
            f"{options.processes} GPUs",
            "",
            "GB per GPU (extra: reference copy and moving average; reserve: assumed)",
            grid(HEADINGS, [cells(row) for row in plan.rows]),
            "",
            f"per update, at {options.compute:g} TFLOP/s, {options.interconnect:g} GB/s in a node, "
            f"{options.network:g} GB/s between nodes (assumed)",
            grid(SPEED_HEADINGS, [speed_cells(row) for row in plan.rows if row.fits]),
            "",
            f"reference {options.reference}: the run costs {plan.reference_factor:.2f} times "
            "supervised fine-tuning's arithmetic",
            *([f"as asked: {answer(plan, plan.asked)}"] if plan.asked else []),
            f"recommended: {answer(plan)}",
            "",
            toml(plan),
        ]
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Return all numbers in bytes, FLOP and seconds, as plain data."""
    data = dataclasses.asdict(plan)
    entries, rows = (
        [*data["rows"], data["best"], data["asked"]],
        [*plan.rows, plan.best, plan.asked],
    )
    for entry, row in zip(entries, rows, strict=True):
        if row is not None:
            entry["memory"]["total"] = row.memory.total
            entry["seconds"] = row.seconds
    return data


def grid(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return columns aligned for a terminal."""
    table = [headings, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
