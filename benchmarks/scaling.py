"""Writes the computed tables of docs/scaling.md: what `tglo plan` answers for SDXL on four machines.

    python benchmarks/scaling.py           # --check: only say whether the page is up to date

Nothing is measured here: the planner computes. The page's text is written by hand; what stands
between its markers comes from here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from tglo.bench.table import markdown
from tglo.plan import text
from tglo.plan.options import Options
from tglo.plan.planner import Plan, plan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- computed: {} -->", "<!-- end: {} -->"
MACHINES = {
    "sdxl_lora": Options(gpu_memory=24, train="lora", lora_rank=32, micro_batch=2, accumulation=8),
    "sdxl_full_one_gpu": Options(micro_batch=2, accumulation=64),
    "sdxl_full_zero": Options(gpus=8, accumulation=4),
    "sdxl_full_four_nodes": Options(gpus=8, nodes=4, micro_batch=8),
}
"""Configuration in examples/configs -> the run that it is for."""


def block(name: str, answer: Plan) -> str:
    """Command, answer and both tables of one configuration."""
    best = answer.best
    memory = [text.cells(row) for row in answer.rows]
    speed = [text.speed_cells(row) for row in answer.rows if row.fits]
    return "\n\n".join(
        [
            f"`{text.command(answer.options)}` (`examples/configs/{name}.toml`): "
            f"{text.answer(answer)}; {best.seconds:.2f} s per update of "
            f"{answer.options.micro_batch * answer.options.accumulation * answer.options.processes} "
            "samples at the assumed speeds, if nothing overlaps.",
            f"GB per GPU:\n\n{markdown(text.HEADINGS, memory)}",
            f"Per update:\n\n{markdown(text.SPEED_HEADINGS, speed)}",
        ]
    )


def counts(answer: Plan) -> str:
    """What one sample costs, by checkpointing."""
    rows = [
        (mode, f"{cost.flops / 1e12:.2f}", f"{cost.held / 1e9:.2f}", f"{cost.peak / 1e9:.2f}")
        for mode, cost in answer.profile.cost.items()
    ]
    headings = ("checkpointing", "TFLOP", "GB kept for the backward", "GB at the peak")
    return (
        f"{answer.profile.sizes.trained:,} weights; the forward pass is "
        f"{answer.profile.forward_flops / 1e12:.2f} TFLOP.\n\n{markdown(headings, rows)}"
    )


def fill(page: str) -> str:
    """The page with every block replaced. ValueError if a marker is missing."""
    plans = {name: plan(options) for name, options in MACHINES.items()}
    found = {"counts": counts(plans["sdxl_full_zero"])}
    found |= {name: block(name, answer) for name, answer in plans.items()}
    for name, content in found.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"the page lacks {begin} or {end}; put both where the part belongs")
        page = f"{before}{begin}\n{content}\n{end}{after}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    check = parser.parse_args(arguments).check
    current = PAGE.read_text()
    page = fill(current)
    if check:
        print(f"{PAGE.name} is {'up to date' if page == current else 'out of date'}")
        return int(page != current)
    PAGE.write_text(page)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
