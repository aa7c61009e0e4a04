"""Tables of a record of token losses, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.page import by_device, source
from tglo.bench import table
from tglo.bench.record import Record
from tglo.bench.table import Cell, number

TITLES = {
    "log-prob": "Log-probabilities",
    "loss": "TGO's loss with the reference's hidden states",
}
NOT_MEASURED = "**No GPU has run the token losses yet.**"


def one_place(record: Record, last: Record, render: table.Render) -> str:
    """Tabulate the contenders at the task, size and batch of a row."""
    names = ("task", "size", "batch", "dtype")
    rows = [row for row in record["rows"] if all(row[name] == last[name] for name in names)]
    eager = rows[0]
    columns: dict[str, Cell] = {
        "ms": lambda row: table.median(row, 1e3),
        "10 to 90%": lambda row: table.between(row, 1e3),
        "x eager": lambda row: table.times_faster(row, eager),
        "of floor": lambda row: table.share(
            row["floor_us"], row["time_us"] and row["time_us"]["median"]
        ),
        "peak MiB": lambda row: number(row["peak_bytes"] / 2**20),
        "of eager's": lambda row: table.share(row["peak_bytes"], eager["peak_bytes"], 1),
        "error of value": lambda row: table.small(row["error_value"]),
        "of gradient": lambda row: table.small(row["error_gradient"]),
    }
    shown = table.detailed(rows, columns, render, known=lambda row: row["peak_bytes"] is not None)
    title = f"{last['task']}, {last['size']} x {last['batch']}, {last['dtype']}"
    return f"{title}, forward and backward\n{shown}"


def overview(record: Record, task: str) -> str:
    """Tabulate each contender at each size and batch: milliseconds, ratio to eager, peak memory."""
    rows = [row for row in record["rows"] if row["task"] == task]
    eager = {_place(row): row for row in rows if row["contender"] == "eager"}

    def cell(row: Record) -> str:
        if row["time_us"] is None:
            return ""
        ratio = table.times_faster(row, eager.get(_place(row)))
        return f"{table.median(row, 1e3)} ({ratio}x), {number(row['peak_bytes'] / 2**20)} MiB"

    return table.overview(rows, _place, cell, table.markdown)


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """Return the blocks "tokens cpu" and "tokens gpu" of the page."""
    return by_device("tokens", records, _block, NOT_MEASURED)


def _place(row: Record) -> str:
    return f"{row['size']} x {row['batch']}"


def _block(record: Record) -> str:
    rows = record["rows"]
    tasks = [task for task in TITLES if any(row["task"] == task for row in rows)]
    machine = table.machine(record, load=True)
    parts = [f"{source('tokens/', record)}: {rows[0]['dtype']}; {machine}"]
    for task in tasks:
        what = f"{TITLES[task]}; milliseconds, times eager's speed, peak memory"
        parts.append(f"{what}:\n\n{overview(record, task)}")
    for task in tasks:
        shown = one_place(record, _largest(rows, task), table.markdown)
        parts.append(shown.replace("\n", ":\n\n", 1))
    return "\n\n".join(parts)


def _largest(rows: Sequence[Record], task: str) -> Record:
    return max(
        (row for row in rows if row["task"] == task),
        key=lambda row: row["shape"][0] * row["shape"][1] * row["shape"][2],
    )
