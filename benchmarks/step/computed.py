"""Writes the computed tables of docs/performance.md: a step of SDXL and of FLUX.1 dev at their true sizes.

    python -m benchmarks.step.computed           # --check: only say whether the page is up to date

Nothing is measured here: the models run on tensors without memory, and the planner computes. The page's text is
written by hand; what stands between its markers comes from here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from benchmarks.page import ROOT, rewrite
from benchmarks.step.contenders import CONTENDERS, PEERS, Contender
from benchmarks.step.models import SIZES
from benchmarks.step.operations import LORA_RANK, Operations, count, count_calls
from benchmarks.step.peers import Peer
from tglo.bench.table import markdown, number
from tglo.plan.memory import GB, memory
from tglo.plan.options import Checkpointing, Options
from tglo.plan.profile import profile

PAGE = ROOT / "docs" / "performance.md"
NAMES = {"sdxl": "SDXL", "flux": "FLUX.1 dev"}
"""The sizes that are published models' own."""
PARTS = {
    "full": "forward and backward, all weights",
    "lora": f"forward and backward, LoRA of rank {LORA_RANK}",
    "reference": "the reference's forward",
    "vae": "encoding the image",
    "text": "encoding the prompt",
}
_RUNS: tuple[tuple[Literal["full", "lora"], Literal["cached", "copy", "adapter-off"], int], ...] = (
    ("lora", "cached", 1), ("lora", "adapter-off", 1),
    ("full", "cached", 1), ("full", "copy", 1), ("full", "cached", 8), ("full", "copy", 8),
)  # fmt: skip
_ROWS: tuple[tuple[int | None, Checkpointing], ...] = (
    (None, "none"), (None, "full"), (0, "none"), (0, "full"), (3, "none"), (3, "full"),
)  # fmt: skip
"""ZeRO stage, or None for the plain engine, and checkpointing."""


def parts(flops: Mapping[str, Operations], calls: Mapping[str, Operations]) -> str:
    """Tabulate the parts of a step, two columns for each model."""
    header = [
        "a sample's",
        *(f"{n}, {unit}" for n in NAMES.values() for unit in ("TFLOP", "calls")),
    ]
    lines = []
    for part, what in PARTS.items():
        cells = []
        for size in NAMES:
            done, called = flops[size].as_dict()[part], calls[size].as_dict()[part]
            cells += [number(done / 1e12), str(called)]
        lines.append([what, *cells])
    return markdown(header, lines)


def steps(flops: Mapping[str, Operations]) -> str:
    """Tabulate the contenders' TFLOP a sample, recomputation included, and the peer's over it."""
    lines = []
    for name, contender in CONTENDERS.items():
        if name.endswith("compiled"):  # the same operations
            continue
        peer, cells = CONTENDERS[PEERS[contender.train]], []
        for size in NAMES:
            done, theirs = (_done(c, flops[size]) for c in (contender, peer))
            cells += [number(done / 1e12), f"{theirs / done:.2f}"]
        lines.append([name, *cells])
    units = ("TFLOP", "fewer, times")
    return markdown(["a sample's", *(f"{n}, {u}" for n in NAMES.values() for u in units)], lines)


def _done(contender: Contender, operations: Operations) -> int:
    """Return what a contender computes for a sample; checkpointing adds a forward."""
    needed = operations.step(
        contender.train, reference=contender.reference, online=contender.online
    )
    again = isinstance(contender, Peer) and contender.checkpointing
    return needed + again * operations.reference


def needed() -> str:
    """Tabulate the memory that each way of training needs for one sample by the planner's formulas."""
    lines = []
    for size, name in NAMES.items():
        for train, reference, gpus in _RUNS:
            options = Options(
                model=SIZES[size].planned,
                gpus=gpus,
                train=train,
                lora_rank=LORA_RANK,
                reference=reference,
                micro_batch=1,
            )
            rank = LORA_RANK if train == "lora" else None
            found = profile(options.model, lora_rank=rank)
            totals = [
                f"{memory(options, found, stage, mode).total / GB:.0f}"
                if (stage == 3) is (gpus > 1)
                else ""
                for stage, mode in _ROWS
            ]
            what = "all weights" if train == "full" else "LoRA"
            lines.append([name, what, reference, str(gpus), *totals])
    shown = [f"{'plain' if stage is None else f'ZeRO {stage}'}, {mode}" for stage, mode in _ROWS]
    return markdown(["model", "trains", "reference", "GPUs", *shown], lines)


def blocks() -> dict[str, str]:
    """Return what belongs between each pair of markers."""
    flops = {size: count(SIZES[size]) for size in NAMES}
    calls = {size: count_calls(SIZES[size]) for size in NAMES}
    return {"step parts": parts(flops, calls), "step work": steps(flops), "step memory": needed()}


def main(arguments: Sequence[str] | None = None) -> int:
    return rewrite(PAGE, blocks(), __doc__, arguments, kind="computed")


if __name__ == "__main__":
    sys.exit(main())
