"""Writes the measured parts of docs/performance.md, and docs/performance.png, from the records.

    tglo bench --output benchmarks/results/cpu.json
    python benchmarks/report.py            # --check: only say whether the page is up to date

Records are the files in benchmarks/results/ that `tglo bench` wrote: of the CPU the newest, of GPUs
all; and those in benchmarks/results/step/ and tokens/, from which step/report.py and
tokens/tables.py make their parts. The page's text is written by hand; what stands between its
markers comes from here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed

from benchmarks.step import report as step_report
from benchmarks.tokens import tables as token_tables
from tglo.bench import table
from tglo.bench.record import load as load_records

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "performance.png"
SHOWN = {"cpu": "sdxl-8", "cuda": "sdxl-16"}
"""The sizes that targets name; the figure and the detailed tables show them."""

NOT_MEASURED = """**No GPU has been measured yet.** The CUDA and Triton kernels have been compiled for sm_80, sm_90 and
sm_100, and nothing is said here about their speed."""


def load(folder: Path = RESULTS) -> list[Record]:
    """Full records, oldest first."""
    return load_records(folder)


def shown_size(record: Record) -> str:
    sizes = table.sizes(record)
    wanted = SHOWN[record["device"]]
    return wanted if wanted in sizes else sizes[0]


def overview(record: Record) -> str:
    """Every contender at every size: microseconds, and how many times faster than eager."""
    sizes = table.sizes(record)
    by_place = {(row["contender"], row["size"]): row for row in record["rows"]}
    lines = []
    for name in dict.fromkeys(row["contender"] for row in record["rows"]):
        cells = []
        for size in sizes:
            row = by_place.get((name, size))
            if row is None or row["time_us"] is None:
                cells.append("")
                continue
            ratio = table.times_faster(row, by_place.get(("eager", size)))
            cells.append(table.number(row["time_us"]["median"]) + (f" ({ratio}x)" if ratio else ""))
        lines.append([name, *cells])
    return table.markdown(["contender", *sizes], lines)


def _source(record: Record) -> str:
    return f"`benchmarks/results/{record['file']}`: {table.machine(record)}."


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """What belongs between each pair of markers."""
    cpu = [record for record in records if record["device"] == "cpu"][-1:]
    gpu = [record for record in records if record["device"] == "cuda"]
    found = {name: "Not measured yet." for name in ("machine", "accuracy", "cpu", "host")}
    for record in cpu:
        size = shown_size(record)
        shape = next(tuple(row["shape"]) for row in record["rows"] if row["size"] == size)
        found["machine"] = (
            f"{_source(record)} Load of the machine before the run: {record['machine']['load']}."
        )
        found["accuracy"] = table.accuracy(record, table.markdown)
        found["cpu"] = (
            f"{size}, predictions of {shape}:\n\n{table.speed(record, size, table.markdown)}\n\n"
            f"All sizes, microseconds and times eager's speed:\n\n{overview(record)}"
        )
        found["host"] = table.host(record, table.markdown)
    parts = []
    for record in gpu:
        bandwidth = record["copy_bytes_per_second"] / 1e12
        parts += [
            f"{_source(record)} Copies moved {bandwidth:.2f} TB/s.",
            overview(record),
            table.accuracy(record, table.markdown),
            table.host(record, table.markdown),
        ]
        for size in table.sizes(record):
            parts.append(f"{size}:\n\n{table.speed(record, size, table.markdown)}")
    found["gpu"] = "\n\n".join(parts) or NOT_MEASURED
    return found


def fill(page: str, found: dict[str, str]) -> str:
    """The page with every block between its markers replaced. ValueError if a marker is missing."""
    for name, content in found.items():
        begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"the page lacks {begin} or {end}; put both where the part belongs")
        page = f"{before}{begin}\n{content}\n{end}{after}"
    return page


def draw(records: Sequence[Record], path: Path) -> None:
    """Bars of the time at the shown size, one panel for each device; errors of r beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    newest = {record["device"]: record for record in records}
    figure, panels = pyplot.subplots(
        len(newest), 1, figsize=(7.5, 3.2 * len(newest)), squeeze=False, layout="constrained"
    )
    for axes, record in zip(panels[:, 0], newest.values(), strict=True):
        size = shown_size(record)
        # The reference backend is the formula, not a competitor: its bar would dwarf the others.
        rows = [
            row
            for row in reversed(record["rows"])
            if row["size"] == size and row["time_us"] and row["contender"] != "tglo reference"
        ]
        times = [row["time_us"]["median"] for row in rows]
        colors = ["#2b6ca3" if r["contender"].startswith("tglo") else "#b3b3b3" for r in rows]
        axes.barh([row["contender"] for row in rows], times, color=colors, height=0.7)
        for index, (row, time) in enumerate(zip(rows, times, strict=True)):
            label = f" {table.number(time)} us, r off by {table.small(row['error_log_ratio'])}"
            axes.text(time, index, label, va="center", fontsize=8)
        axes.set_xlim(0, 1.45 * max(times))
        axes.set_xlabel("microseconds, forward and backward (median)", fontsize=8)
        where = record["gpu"]["name"] if record["device"] == "cuda" else "CPU, 2 threads"
        axes.set_title(f"{size}, {rows[0]['dtype']}, {where}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    check = parser.parse_args(arguments).check
    records = load()
    if not records:
        print(f"no record in {RESULTS}; run: tglo bench --output {RESULTS}/cpu.json")
        return 1
    found = blocks(records) | step_report.blocks(step_report.load())
    found |= token_tables.blocks(token_tables.load())
    page = fill(PAGE.read_text(), found)
    if check:
        current = page == PAGE.read_text()
        print(f"{PAGE.name} is {'up to date' if current else 'out of date: run this command'}")
        return 0 if current else 1
    PAGE.write_text(page)
    draw(records, FIGURE)
    step_report.draw(step_report.load())
    print(f"wrote {PAGE} and figures from {', '.join(record['file'] for record in records)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
