"""The blocks "step cpu" and "step gpu" of docs/performance.md, from the newest record of each.

Records are the files in benchmarks/results/step/; `python benchmarks/report.py` puts the blocks in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.step import tables
from tglo.bench import table
from tglo.bench.record import load as load_records

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "step"
FIGURE = ROOT / "docs" / "step.png"

NOT_MEASURED = {
    "cpu": "Not measured yet.",
    "cuda": "**No GPU has run this step yet**, and nothing is said here about its speed on one.",
}


def load(folder: Path = RESULTS) -> list[Record]:
    """Full records, oldest first."""
    return load_records(folder)


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """What belongs between each pair of markers, by the markers' name."""
    newest = {record["device"]: record for record in records}
    return {
        name: _block(newest[device]) if device in newest else NOT_MEASURED[device]
        for name, device in (("step cpu", "cpu"), ("step gpu", "cuda"))
    }


def _block(record: Record) -> str:
    """Source, counts, all batches, one batch in detail, the ablation, and what is to be noted."""
    batches, wanted = tables.batches(record), record["ablation_batch"]
    batch = wanted if wanted in batches else batches[-1]
    parts = [
        f"`benchmarks/results/step/{record['file']}`: model `{record['size']}`, "
        f"{record['precision']}, fused loss on backend {record['backend']}; {table.machine(record)}. "
        f"Load of the machine before the run: {record['machine']['load']}.",
        tables.counted(record),
        tables.all_batches(record, table.markdown),
        f"Batch {batch}:",
        tables.at_batch(record, batch, table.markdown),
    ]
    if wanted:
        parts += [
            f"One thing changed at a time in `{record['full']}`, batch {wanted}:",
            tables.ablation(record, table.markdown),
        ]
    return "\n\n".join([*parts, *tables.notes(record)])


def draw(records: Sequence[Record], path: Path = FIGURE) -> None:
    """Bars of samples per second at the record's own batch, and peak memory as text; a panel for
    each device, its newest record.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    newest = {record["device"]: record for record in records}
    if not newest:
        return
    figure, panels = pyplot.subplots(
        len(newest), 1, figsize=(7.5, 3.4 * len(newest)), squeeze=False, layout="constrained"
    )
    for axes, record in zip(panels[:, 0], newest.values(), strict=True):
        batch = record["ablation_batch"] or tables.batches(record)[-1]
        rows = [
            row
            for row in reversed(record["rows"])
            if row["batch"] == batch and row["time_us"] and not row["ablated"]
        ]
        speeds = [row["samples_per_second"] for row in rows]
        colors = ["#2b6ca3" if r["contender"].startswith("tglo") else "#b3b3b3" for r in rows]
        axes.barh([row["contender"] for row in rows], speeds, color=colors, height=0.7)
        for index, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
            label = f" {table.number(speed)}, {table.number(row['peak_bytes'] / 1e9)} GB"
            axes.text(speed, index, label, va="center", fontsize=8)
        axes.set_xlim(0, 1.25 * max(speeds))
        axes.set_xlabel("samples per second (median), peak memory", fontsize=8)
        where = (
            record["gpu"]["name"]
            if record["device"] == "cuda"
            else f"CPU, {record['machine']['threads']} threads"
        )
        axes.set_title(f"{record['size']}, batch {batch}, {where}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
