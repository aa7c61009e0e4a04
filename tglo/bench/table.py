"""Tables of a record, as text for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Record = dict[str, Any]
Row = Sequence[str]
Render = Callable[[Row, Sequence[Row]], str]


def text(header: Row, rows: Sequence[Row]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Row) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in [header, ["-" * width for width in widths], *rows])


def markdown(header: Row, rows: Sequence[Row]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent; nothing for None."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def small(value: float | None) -> str:
    """An error: one or two digits, with an exponent below 0.001."""
    return (
        ""
        if value is None
        else "0"
        if value == 0
        else f"{value:.1e}"
        if value < 1e-3
        else f"{value:.2g}"
    )


def times_faster(row: Record, other: Record | None) -> str:
    """How many times the other's median this row's is."""
    if other is None or row["time_us"] is None or other["time_us"] is None:
        return ""
    return f"{other['time_us']['median'] / row['time_us']['median']:.2f}"


def speed(record: Record, size: str, render: Render) -> str:
    """One size's contenders; times of one run, so that their ratios mean something."""
    rows = [row for row in record["rows"] if row["size"] == size]
    by_name = {row["contender"]: row for row in rows}
    on_gpu = record["device"] == "cuda"
    header = [
        "contender",
        "us",
        "least",
        "10 to 90%",
        "x eager",
        "x compile",
        "error of r",
        "of gradient",
    ]
    if on_gpu:
        header += ["us in L2", "B/element", "of floor", "launches", "peak MB"]
    lines = []
    for row in rows:
        time = row["time_us"]
        if time is None:
            why = (row["problem"] or "").split(":")[0] or "not timed"
            lines.append([row["contender"], why, *[""] * (len(header) - 2)])
            continue
        line = [
            row["contender"],
            number(time["median"]),
            number(time["minimum"]),
            f"{number(time['low'])} to {number(time['high'])}",
            times_faster(row, by_name.get("eager")),
            times_faster(row, by_name.get("torch.compile")),
            small(row["error_log_ratio"]),
            small(row["error_gradient"]),
        ]
        if on_gpu:
            in_cache, floor = row["in_cache_us"], row.get("floor_us")
            line += [
                number(in_cache and in_cache["median"]),
                f"{row['bytes_per_element']:g}",
                f"{100 * floor / time['median']:.0f}%" if floor else "",
                str(row["launches"] or ""),
                f"{row['peak_bytes'] / 1e6:.1f}",
            ]
        lines.append(line)
    return render(header, lines)


def host(record: Record, render: Render) -> str:
    lines = [
        [
            row["contender"],
            number(row["forward"]),
            number(row["backward"]),
            number(row["both"]),
        ]
        for row in record["host"]
    ]
    return render(["contender", "forward us", "backward us", "both us"], lines)


def accuracy(record: Record, render: Render) -> str:
    """Largest abs(r - exact): a row for each way, a column for each mean square error."""
    rows = record["accuracy"]
    errors = sorted({row["mse"] for row in rows})
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = {row["mse"]: row for row in rows if row["name"] == name}
        limit = mine[errors[0]]["limit"]
        cells = [small(mine[mse]["largest_error"]) for mse in errors]
        lines.append([name, *cells, "" if limit is None else f"{limit:.0e}"])
    return render(["largest error of r", *(f"MSE {mse:g}" for mse in errors), "limit"], lines)


def machine(record: Record) -> str:
    """One line: where and with what."""
    found, versions, gpu = record["machine"], record["versions"], record["gpu"]
    parts = [
        f"{gpu['name']}, driver {gpu['driver']}, CUDA {versions['cuda']}"
        if record["device"] == "cuda"
        else f"{found['cpu']}, {found['threads']} of {found['cores']} cores",
        f"torch {versions['torch']}",
        f"Triton {versions['triton']}",
        f"{versions['extension'] or 'no'} extension",
        f"{record['date'][:10]}",
    ]
    if record["commit"]:
        changed = " with changes" if record["commit"]["changed"] else ""
        parts.append(f"commit {record['commit']['id'][:10]}{changed}")
    return "; ".join(parts)


def sizes(record: Record) -> list[str]:
    return list(dict.fromkeys(row["size"] for row in record["rows"]))


def opening(record: Record) -> str:
    """For the terminal: what is known before the first size is timed."""
    shape = tuple(record["host"][0]["shape"]) if record["host"] else ()
    blocks = [machine(record), accuracy(record, text)]
    return "\n\n".join([*blocks, f"host cost of a call, {shape}\n{host(record, text)}"])


def size_text(record: Record, size: str) -> str:
    """For the terminal: one size."""
    shape = next(tuple(row["shape"]) for row in record["rows"] if row["size"] == size)
    return f"{size} {shape}, forward and backward\n{speed(record, size, text)}"
