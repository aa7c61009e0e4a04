"""Tables of a record of the step benchmark, as text for the terminal and as Markdown."""

from __future__ import annotations

from typing import Any

from tglo.bench import table
from tglo.bench.table import Render, number

Record = dict[str, Any]


def at_batch(record: Record, batch: int, render: Render) -> str:
    """Every contender at one batch: speed, memory, launches."""
    header = [
        "contender",
        "samples/s",
        "10 to 90%",
        "x peer",
        "TFLOP/s",
        "of matrix rate",
        "peak GB",
        "launches",
        "outside",
    ]
    lines = []
    for row in _main(record):
        if row["batch"] != batch:
            continue
        time = row["time_us"]
        if time is None:
            lines.append([row["contender"], _why(row), *[""] * (len(header) - 2)])
            continue
        slow, fast = (batch / (time[end] * 1e-6) for end in ("high", "low"))
        lines.append(
            [
                row["contender"],
                number(row["samples_per_second"]),
                f"{number(slow)} to {number(fast)}",
                table.times_faster(row, _peer(record, row)),
                number(row["flops_per_second"] / 1e12),
                f"{100 * row['of_matrix_rate']:.0f}%",
                number(row["peak_bytes"] / 1e9),
                str(row.get("launches") or ""),
                f"{100 * row['outside']:.1f}%",
            ]
        )
    return render(header, lines)


def all_batches(record: Record, render: Render) -> str:
    """Every contender at every batch: samples per second, and how many times the peer's."""
    batches = list(dict.fromkeys(row["batch"] for row in _main(record)))
    lines = []
    for name in dict.fromkeys(row["contender"] for row in _main(record)):
        cells = []
        for batch in batches:
            row = _row(record, name, batch)
            if row is None or row["time_us"] is None:
                cells.append("" if row is None else _why(row))
                continue
            ratio = table.times_faster(row, _peer(record, row))
            cells.append(number(row["samples_per_second"]) + (f" ({ratio}x)" if ratio else ""))
        lines.append([name, *cells])
    return render(["samples/s", *(f"batch {batch}" for batch in batches)], lines)


def ablation(record: Record, render: Render) -> str:
    """The full configuration, and the same with one thing changed."""
    batch = record["ablation_batch"]
    full = _row(record, record["full"], batch)
    found = [(f"nothing ({record['full']})", full)]
    found += [(what, _row(record, name, batch)) for what, name in record["ablations"].items()]
    lines = []
    for what, row in found:
        if row is None or row["time_us"] is None:
            lines.append([what, _why(row) if row else "not run", "", ""])
            continue
        memory = ""
        if full is not None and full["time_us"] is not None:
            memory = f"{row['peak_bytes'] / full['peak_bytes']:.2f}"
        speed = table.times_faster(row, full)
        lines.append([what, number(row["samples_per_second"]), speed, memory])
    return render(["changed", "samples/s", "speed", "memory"], lines)


def counted(record: Record) -> str:
    """A sentence: the operations of a sample, and the rate that shares are taken of."""
    count = {name: number(value / 1e12) for name, value in record["operations"].items()}
    kind = "bfloat16" if record["device"] == "cuda" else "float32"
    return (
        f"TFLOP per sample: {count['full']} forward and backward ({count['lora']} with LoRA), "
        f"{count['reference']} the reference's forward, {count['vae']} encoding the image, "
        f"{count['text']} encoding the prompt. Large {kind} matrix products ran at "
        f"{number(record['matrix_flops_per_second'] / 1e12)} TFLOP/s."
    )


def notes(record: Record) -> list[str]:
    """What is to be said of contenders that were timed: steps that differ from the others'."""
    found = {row["contender"]: row["note"] for row in record["rows"] if row["note"]}
    return [f"{name}: {note}." for name, note in found.items()]


def batches(record: Record) -> list[int]:
    """Those at which something was timed, or all."""
    timed = {row["batch"] for row in _main(record) if row["time_us"]}
    return sorted(timed or {row["batch"] for row in _main(record)})


def whole(record: Record) -> str:
    """For the terminal."""
    blocks = [f"{record['size']}; {table.machine(record)}", counted(record)]
    blocks += [f"batch {b}\n{at_batch(record, b, table.text)}" for b in batches(record)]
    if record["ablation_batch"]:
        shown = ablation(record, table.text)
        blocks.append(f"one thing changed, batch {record['ablation_batch']}\n{shown}")
    return "\n\n".join([*blocks, *notes(record)])


def _main(record: Record) -> list[Record]:
    """Rows of contenders that are not there for the ablation alone."""
    return [row for row in record["rows"] if not row["ablated"]]


def _row(record: Record, name: str, batch: int) -> Record | None:
    found = (r for r in record["rows"] if r["contender"] == name and r["batch"] == batch)
    return next(found, None)


def _peer(record: Record, row: Record) -> Record | None:
    """The row that ratios of a row are taken to."""
    return _row(record, record["peers"][row["train"]], row["batch"])


def _why(row: Record) -> str:
    return (row["problem"] or "").split(":")[0] or "not timed"
