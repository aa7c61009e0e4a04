"""The blocks "step cpu" and "step gpu" of docs/performance.md, from the newest record of each.

Records are the files in benchmarks/results/step/; `python benchmarks/report.py` puts the blocks in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.step import tables
from tglo.bench import table
from tglo.files import read_json

Record = dict[str, Any]

RESULTS = Path(__file__).resolve().parents[1] / "results" / "step"

NOT_MEASURED = {
    "cpu": "Not measured yet.",
    "cuda": "**No GPU has run this step yet**, and nothing is said here about its speed on one.",
}


def load(folder: Path = RESULTS) -> list[Record]:
    """Full records, oldest first."""
    records = [read_json(path) | {"file": path.name} for path in sorted(folder.glob("*.json"))]
    return sorted((r for r in records if not r["quick"]), key=lambda r: r["date"])


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
