"""Tables of a record of the step benchmark, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.page import bars, by_device, device_name, source
from tglo.bench import table
from tglo.bench.record import Record, newest
from tglo.bench.table import Cell, Render, number

NOT_MEASURED = "**No GPU has run this step yet**, and nothing is said here about its speed on one."
BLOCKS = {"sdxl": "step", "flux": "step flux", "wan": "step wan"}
"""The beginnings of the page's blocks, by model."""


def at_batch(record: Record, batch: int, render: Render) -> str:
    """Tabulate every contender at one batch: speed, memory, launches."""

    def spread(row: Record) -> str:
        slow, fast = _spread(row)
        return f"{number(slow)} to {number(fast)}"

    columns: dict[str, Cell] = {
        "samples/s": lambda row: number(row["samples_per_second"]),
        "10 to 90%": spread,
        "x peer": lambda row: table.times_faster(row, _peer(record, row)),
        "TFLOP/s": lambda row: number(row["flops_per_second"] / 1e12),
        "of matrix rate": lambda row: table.share(row["of_matrix_rate"], 1),
        "peak GB": lambda row: number(row["peak_bytes"] / 1e9),
        "launches": lambda row: str(row.get("launches") or ""),
        "outside": lambda row: table.share(row["outside"], 1, 1),
    }
    return table.detailed([r for r in _main(record) if r["batch"] == batch], columns, render)


def all_batches(record: Record, render: Render) -> str:
    """Tabulate every contender at every batch: samples per second, and the ratio to the peer."""

    def cell(row: Record) -> str:
        if row["time_us"] is None:
            return table.why(row)
        ratio = table.times_faster(row, _peer(record, row))
        return number(row["samples_per_second"]) + (f" ({ratio}x)" if ratio else "")

    return table.overview(
        _main(record), lambda row: f"batch {row['batch']}", cell, render, first="samples/s"
    )


def ablation(record: Record, render: Render) -> str:
    """Tabulate the full configuration, and the same with one thing changed."""
    names = {f"nothing ({record['full']})": record["full"], **record["ablations"]}
    missing = {"time_us": None, "problem": "not run"}
    rows = [
        {**(_row(record, name, record["ablation_batch"]) or missing), "changed": what}
        for what, name in names.items()
    ]
    full = rows[0] if rows[0]["time_us"] else None
    columns: dict[str, Cell] = {
        "samples/s": lambda row: number(row["samples_per_second"]),
        "speed": lambda row: table.times_faster(row, full),
        "memory": lambda row: f"{row['peak_bytes'] / full['peak_bytes']:.2f}" if full else "",
    }
    return table.detailed(rows, columns, render, first="changed", named=lambda row: row["changed"])


def counted(record: Record) -> str:
    """State the operations of a sample, and the rate that shares are taken of."""
    count = {name: number(value / 1e12) for name, value in record["operations"].items()}
    kind = "bfloat16" if record["device"] == "cuda" else "float32"
    return (
        f"TFLOP per sample: {count['full']} forward and backward ({count['lora']} with LoRA), "
        f"{count['reference']} the reference's forward, {count['vae']} encoding the image, "
        f"{count['text']} encoding the prompt. Large {kind} matrix products ran at "
        f"{number(record['matrix_flops_per_second'] / 1e12)} TFLOP/s."
    )


def notes(record: Record) -> list[str]:
    """List the contenders that were timed although their steps differ from the others'."""
    found = {row["contender"]: row["note"] for row in record["rows"] if row["note"]}
    return [f"{name}: {note}." for name, note in found.items()]


def batches(record: Record) -> list[int]:
    """Return the batches at which something was timed, or all."""
    timed = {row["batch"] for row in _main(record) if row["time_us"]}
    return sorted(timed or {row["batch"] for row in _main(record)})


def whole(record: Record) -> str:
    """Return all tables for the terminal."""
    blocks = [f"{record['size']}; {table.machine(record)}", counted(record)]
    blocks += [f"batch {b}\n{at_batch(record, b, table.text)}" for b in batches(record)]
    if record["ablation_batch"]:
        shown = ablation(record, table.text)
        blocks.append(f"one thing changed, batch {record['ablation_batch']}\n{shown}")
    return "\n\n".join([*blocks, *notes(record)])


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """Return the page's blocks "step cpu" and "step gpu", of SDXL, and the like of the other models."""
    found = {}
    for model, name in BLOCKS.items():
        found |= by_device(name, _of(records, model), _block, NOT_MEASURED)
    return found


def _block(record: Record) -> str:
    """Compose source, counts, all batches, one batch in detail, the ablation and the notes."""
    found, wanted = batches(record), record["ablation_batch"]
    batch = wanted if wanted in found else found[-1]
    parts = [
        f"{source('step/', record)}: model `{record['size']}`, {record['precision']}, "
        f"fused loss on backend {record['backend']}; {table.machine(record, load=True)}",
        counted(record),
        all_batches(record, table.markdown),
        f"Batch {batch}:",
        at_batch(record, batch, table.markdown),
    ]
    if wanted:
        parts += [
            f"One thing changed at a time in `{record['full']}`, batch {wanted}:",
            ablation(record, table.markdown),
        ]
    return "\n\n".join([*parts, *notes(record)])


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw samples per second at the record's own batch, a panel for each model and device, with peak memory."""
    panels = []
    for record in (r for model in BLOCKS for r in newest(_of(records, model)).values()):
        batch = record["ablation_batch"] or batches(record)[-1]
        rows = [r for r in reversed(_main(record)) if r["batch"] == batch and r["time_us"]]
        panels.append((f"{record['size']}, batch {batch}, {device_name(record)}", rows))
    if panels:
        bars(
            path,
            panels,
            lambda row: row["samples_per_second"],
            _spread,
            lambda row: (
                f"{number(row['samples_per_second'])}, {number(row['peak_bytes'] / 1e9)} GB"
            ),
            "samples per second: median, 10th to 90th percentile of the steps; peak memory",
            room=1.25,
        )


def _of(records: Sequence[Record], model: str) -> list[Record]:
    """Return the records of a model; the first ones had no other than SDXL and do not say."""
    return [record for record in records if record.get("model", "sdxl") == model]


def _spread(row: Record) -> tuple[float, float]:
    """Return samples per second at the 90th and at the 10th percentile of a step's time."""
    slow, fast = (row["batch"] / (row["time_us"][end] * 1e-6) for end in ("high", "low"))
    return slow, fast


def _main(record: Record) -> list[Record]:
    """Return the rows of contenders that are not there for the ablation alone."""
    return [row for row in record["rows"] if not row["ablated"]]


def _row(record: Record, name: str, batch: int) -> Record | None:
    found = (r for r in record["rows"] if r["contender"] == name and r["batch"] == batch)
    return next(found, None)


def _peer(record: Record, row: Record) -> Record | None:
    """Return the row that ratios of a row are taken to."""
    return _row(record, record["peers"][row["train"]], row["batch"])
