"""Writes the measured parts of docs/performance.md, and its figures, from the records.

    tglo bench --output benchmarks/results/cpu.json
    python benchmarks/report.py            # --check: only say whether the page is up to date

Records are the files in benchmarks/results/ that `tglo bench` wrote: of the CPU the newest, of GPUs
all; and those in benchmarks/results/step/ and tokens/, whose parts the tables of those suites make. The
page's text is written by hand; what stands between its markers comes from here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from benchmarks.page import RESULTS, ROOT, bars, device_name, rewrite, source
from benchmarks.step import tables as step
from benchmarks.tokens import tables as tokens
from tglo.bench import table
from tglo.bench.record import Record, load, newest

PAGE = ROOT / "docs" / "performance.md"
FIGURE, STEP_FIGURE = ROOT / "docs" / "performance.png", ROOT / "docs" / "step.png"
SHOWN = {"cpu": "sdxl-8", "cuda": "sdxl-16"}
"""The sizes that targets name; the figure and the detailed tables show them."""

NOT_MEASURED = """**No GPU has been measured yet.** The CUDA and Triton kernels have been compiled for sm_80, sm_90 and
sm_100, and nothing is said here about their speed."""


def shown_size(record: Record) -> str:
    """Return the size that the page shows in detail."""
    sizes = table.sizes(record)
    wanted = SHOWN[record["device"]]
    return wanted if wanted in sizes else sizes[0]


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """Return what belongs between each pair of markers."""
    found = {name: "Not measured yet." for name in ("machine", "accuracy", "cpu", "host")}
    if record := newest(records).get("cpu"):
        size = shown_size(record)
        found["machine"] = f"{source('', record)}: {table.machine(record, load=True)}"
        found["accuracy"] = table.accuracy(record, table.markdown)
        found["cpu"] = (
            f"{size}, predictions of {table.shape_of(record, size)}:\n\n"
            f"{table.speed(record, size, table.markdown)}\n\n"
            f"All sizes, microseconds and times eager's speed:\n\n"
            f"{table.all_sizes(record, table.markdown)}"
        )
        found["host"] = table.host(record, table.markdown)
    parts = []
    for record in records:
        if record["device"] == "cuda":
            bandwidth = record["copy_bytes_per_second"] / 1e12
            parts += [
                f"{source('', record)}: {table.machine(record)}. Copies moved {bandwidth:.2f} TB/s.",
                table.all_sizes(record, table.markdown),
                table.accuracy(record, table.markdown),
                table.host(record, table.markdown),
            ]
            for size in table.sizes(record):
                parts.append(f"{size}:\n\n{table.speed(record, size, table.markdown)}")
    found["gpu"] = "\n\n".join(parts) or NOT_MEASURED
    return found


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw the time at the shown size, a panel for each device, with the errors of r."""
    panels = []
    for record in newest(records).values():
        size = shown_size(record)
        # The reference backend is the formula, not a competitor: its bar would dwarf the others.
        rows = [
            row
            for row in reversed(record["rows"])
            if row["size"] == size and row["time_us"] and row["contender"] != "tglo reference"
        ]
        panels.append((f"{size}, {rows[0]['dtype']}, {device_name(record)}", rows))
    bars(
        path,
        panels,
        lambda row: row["time_us"]["median"],
        lambda row: (row["time_us"]["low"], row["time_us"]["high"]),
        lambda row: f"{table.median(row)} us, r off by {table.small(row['error_log_ratio'])}",
        "microseconds, forward and backward: median, 10th to 90th percentile of the calls",
        room=1.45,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    records, steps = load(RESULTS), load(RESULTS / "step")
    if not records:
        print(f"no record in {RESULTS}; run: tglo bench --output {RESULTS}/cpu.json")
        return 1
    found = blocks(records) | step.blocks(steps) | tokens.blocks(load(RESULTS / "tokens"))

    def figures() -> None:
        draw(records, FIGURE)
        step.draw(steps, STEP_FIGURE)

    return rewrite(PAGE, found, __doc__, arguments, others=figures)


if __name__ == "__main__":
    sys.exit(main())
