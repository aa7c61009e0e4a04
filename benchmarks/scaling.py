"""Writes the computed tables of docs/scaling.md: the answers of `tglo plan` for the ready configurations.

    python benchmarks/scaling.py           # --check: only say whether the page is up to date

Nothing is measured here: the planner computes. The page's text is written by hand; what stands
between its markers comes from here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from benchmarks.page import ROOT, rewrite
from tglo.bench.table import markdown
from tglo.plan import text
from tglo.plan.options import Options
from tglo.plan.planner import Plan, plan

PAGE = ROOT / "docs" / "scaling.md"
MACHINES = {
    "sdxl_lora": Options(gpu_memory=24, train="lora", lora_rank=32, micro_batch=2, accumulation=8),
    "sdxl_full_one_gpu": Options(micro_batch=2, accumulation=64),
    "sdxl_full_zero": Options(gpus=8, accumulation=4),
    "sdxl_full_four_nodes": Options(gpus=8, nodes=4, micro_batch=8),
    "flux_lora": Options(
        model="flux-dev", train="lora", lora_rank=32, micro_batch=2, accumulation=8
    ),
    "flux_lora_24gb": Options(
        model="flux-dev",
        gpu_memory=24,
        train="lora",
        base_weights="nf4",
        reference="adapter-off",
        micro_batch=1,
        accumulation=16,
    ),
    "flux_full_zero": Options(model="flux-dev", gpus=8, micro_batch=2, accumulation=2),
    "qwen_image_lora": Options(model="qwen-image", train="lora", micro_batch=1, accumulation=16),
    "sd35_medium_full": Options(model="sd35-medium", micro_batch=2, accumulation=16),
    "wan21_lora_24gb": Options(
        model="wan21-1.3b",
        gpu_memory=24,
        train="lora",
        base_weights="half",
        reference="adapter-off",
        micro_batch=1,
        accumulation=8,
    ),
    "wan21_14b_lora": Options(
        model="wan21-14b", train="lora", reference="adapter-off", micro_batch=1, accumulation=8
    ),
}
"""The run that each configuration in examples/configs is for."""


def block(name: str, answer: Plan) -> str:
    """Compose command, answer and both tables of one configuration."""
    best = answer.best
    headings, *memory = text.lines(text.MEMORY, answer.rows)
    speed_headings, *speed = text.lines(text.SPEED, [row for row in answer.rows if row.fits])
    return "\n\n".join(
        [
            f"`{text.command(answer.options)}` (`examples/configs/{name}.toml`): "
            f"{text.answer(answer)}; {best.seconds:.2f} s per update of "
            f"{answer.options.micro_batch * answer.options.accumulation * answer.options.processes} "
            "samples at the assumed speeds, if nothing overlaps.",
            f"GB per GPU:\n\n{markdown(headings, memory)}",
            f"Per update:\n\n{markdown(speed_headings, speed)}",
        ]
    )


def counts(answer: Plan) -> str:
    """Tabulate the cost of one sample by checkpointing."""
    rows = [
        (mode, f"{cost.flops / 1e12:.2f}", f"{cost.held / 1e9:.2f}", f"{cost.peak / 1e9:.2f}")
        for mode, cost in answer.profile.cost.items()
    ]
    headings = ("checkpointing", "TFLOP", "GB kept for the backward", "GB at the peak")
    return (
        f"{answer.profile.sizes.trained:,} weights; the forward pass is "
        f"{answer.profile.forward_flops / 1e12:.2f} TFLOP.\n\n{markdown(headings, rows)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    plans = {name: plan(options) for name, options in MACHINES.items()}
    found = {"counts": counts(plans["sdxl_full_zero"])}
    found |= {name: block(name, answer) for name, answer in plans.items()}
    return rewrite(PAGE, found, __doc__, arguments, kind="computed")


if __name__ == "__main__":
    sys.exit(main())
