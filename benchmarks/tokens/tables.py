"""Tables of a record of token losses, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tglo.bench import table
from tglo.bench.record import load as load_records

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "tokens"

TITLES = {
    "log-prob": "Log-probabilities",
    "loss": "TGO's loss with the reference's hidden states",
}
NOT_MEASURED = {
    "cpu": "Not measured yet.",
    "cuda": "**No GPU has run the token losses yet.**",
}


def machine(record: Record) -> str:
    return (
        f"{table.machine(record)}. Load of the machine before the run: {record['machine']['load']}."
    )


def one_place(record: Record, last: Record, render: table.Render) -> str:
    """The contenders at the task, size and batch of a row."""
    names = ("task", "size", "batch", "dtype")
    rows = [row for row in record["rows"] if all(row[name] == last[name] for name in names)]
    header = ["contender", "ms", "10 to 90%", "x eager", "of floor", "peak MiB", "of eager's"]
    header += ["error of value", "of gradient"]
    lines = [_line(row, rows[0], len(header)) for row in rows]
    title = f"{last['task']}, {last['size']} x {last['batch']}, {last['dtype']}"
    return f"{title}, forward and backward\n{render(header, lines)}"


def _line(row: Record, eager: Record, width: int) -> list[str]:
    time = row["time_us"]
    if row["peak_bytes"] is None:
        why = (row["problem"] or "").split(":")[0]
        return [row["contender"], why, *[""] * (width - 2)]
    return [
        row["contender"],
        table.number(time and time["median"] / 1e3),
        f"{table.number(time['low'] / 1e3)} to {table.number(time['high'] / 1e3)}" if time else "",
        table.times_faster(row, eager),
        f"{100 * row['floor_us'] / time['median']:.0f}%" if time else "",
        table.number(row["peak_bytes"] / 2**20),
        _share(row, eager),
        table.small(row["error_value"]),
        table.small(row["error_gradient"]),
    ]


def _share(row: Record, eager: Record) -> str:
    if not eager["peak_bytes"]:
        return ""
    return f"{100 * row['peak_bytes'] / eager['peak_bytes']:.1f}%"


def overview(record: Record, task: str) -> str:
    """A row for each contender, a column for each size and batch: milliseconds, times eager's speed,
    and peak memory.
    """
    rows = [row for row in record["rows"] if row["task"] == task]
    places = list(dict.fromkeys((row["size"], row["batch"]) for row in rows))
    by_place = {(row["contender"], row["size"], row["batch"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(row["contender"] for row in rows):
        cells = []
        for place in places:
            row, eager = by_place.get((name, *place)), by_place.get(("eager", *place))
            if row is None or row["time_us"] is None:
                cells.append("")
                continue
            ratio = table.times_faster(row, eager)
            took = table.number(row["time_us"]["median"] / 1e3)
            cells.append(f"{took} ({ratio}x), {table.number(row['peak_bytes'] / 2**20)} MiB")
        lines.append([name, *cells])
    header = ["contender", *(f"{size} x {batch}" for size, batch in places)]
    return table.markdown(header, lines)


def load(folder: Path = RESULTS) -> list[Record]:
    """Full records, oldest first."""
    return load_records(folder)


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """What belongs between each pair of markers of the page, by the markers' name."""
    newest = {record["device"]: record for record in records}
    return {
        name: _block(newest[device]) if device in newest else NOT_MEASURED[device]
        for name, device in (("tokens cpu", "cpu"), ("tokens gpu", "cuda"))
    }


def _block(record: Record) -> str:
    rows = record["rows"]
    tasks = [task for task in TITLES if any(row["task"] == task for row in rows)]
    parts = [
        f"`benchmarks/results/tokens/{record['file']}`: {rows[0]['dtype']}; {machine(record)}",
        *(
            f"{TITLES[task]}; milliseconds, times eager's speed, peak memory:\n\n"
            f"{overview(record, task)}"
            for task in tasks
        ),
        *(
            one_place(record, _largest(rows, task), table.markdown).replace("\n", ":\n\n", 1)
            for task in tasks
        ),
    ]
    return "\n\n".join(parts)


def _largest(rows: Sequence[Record], task: str) -> Record:
    return max(
        (row for row in rows if row["task"] == task),
        key=lambda row: row["shape"][0] * row["shape"][1] * row["shape"][2],
    )
