"""Tables of records, as text for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tglo.bench.record import Record
from tglo.columns import aligned

Row = Sequence[str]
Render = Callable[[Row, Sequence[Row]], str]
Cell = Callable[[Record], str]


def text(header: Row, rows: Sequence[Row]) -> str:
    """Align columns: the first to the left, the others to the right."""
    rule = ["-" * max(map(len, cells)) for cells in zip(header, *rows, strict=True)]
    return aligned([header, rule, *rows])


def markdown(header: Row, rows: Sequence[Row]) -> str:
    """Write a Markdown table, the first column to the left and the others to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def detailed(
    rows: Iterable[Record],
    columns: Mapping[str, Cell],
    render: Render,
    *,
    first: str = "contender",
    named: Cell = lambda row: row["contender"],
    known: Callable[[Record], bool] = lambda row: row["time_us"] is not None,
) -> str:
    """Tabulate rows, a line each; a row that is not `known` says why in its second column."""
    lines = [
        [named(row), *(cell(row) for cell in columns.values())]
        if known(row)
        else [named(row), why(row), *[""] * (len(columns) - 1)]
        for row in rows
    ]
    return render([first, *columns], lines)


def overview(
    rows: Sequence[Record], place: Cell, cell: Cell, render: Render, *, first: str = "contender"
) -> str:
    """Tabulate rows by contender, a line each, and `place`, a column each; `cell` formats a row."""
    by_place = {(row["contender"], place(row)): row for row in rows}
    places = list(dict.fromkeys(place(row) for row in rows))
    lines = [
        [name, *(cell(by_place[name, p]) if (name, p) in by_place else "" for p in places)]
        for name in dict.fromkeys(row["contender"] for row in rows)
    ]
    return render([first, *places], lines)


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with three significant digits without an exponent; nothing for None."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if value >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def small(value: float | None) -> str:
    """Format an error with one or two digits, and an exponent below 0.001."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    return f"{value:.1e}" if value < 1e-3 else f"{value:.2g}"


def share(part: float | None, whole: float | None, digits: int = 0) -> str:
    """Format a percentage; nothing where either number is missing or the whole is zero."""
    return f"{100 * part / whole:.{digits}f}%" if part is not None and whole else ""


def median(row: Record, unit: float = 1.0) -> str:
    """Format the median time in units of `unit` microseconds; nothing for a row that was not timed."""
    return number(row["time_us"] and row["time_us"]["median"] / unit)


def between(row: Record, unit: float = 1.0) -> str:
    """Format the 10th and the 90th percentile of the time."""
    time = row["time_us"]
    return f"{number(time['low'] / unit)} to {number(time['high'] / unit)}" if time else ""


def times_faster(row: Record, other: Record | None) -> str:
    """Format how many times as fast as the other row this row is."""
    if other is None or row["time_us"] is None or other["time_us"] is None:
        return ""
    return f"{other['time_us']['median'] / row['time_us']['median']:.2f}"


def why(row: Record) -> str:
    """Return the reason, in a few words, why a row has no time."""
    return (row["problem"] or "").split(":")[0] or "not timed"


def speed(record: Record, size: str, render: Render) -> str:
    """Tabulate one size's contenders. All times are of one run, so that their ratios mean something."""
    rows = [row for row in record["rows"] if row["size"] == size]
    by_name = {row["contender"]: row for row in rows}
    columns: dict[str, Cell] = {
        "us": median,
        "least": lambda row: number(row["time_us"]["minimum"]),
        "10 to 90%": between,
        "x eager": lambda row: times_faster(row, by_name.get("eager")),
        "x compile": lambda row: times_faster(row, by_name.get("torch.compile")),
        "error of r": lambda row: small(row["error_log_ratio"]),
        "of gradient": lambda row: small(row["error_gradient"]),
    }
    if record["device"] == "cuda":
        columns |= {
            "us in L2": lambda row: number(row["in_cache_us"] and row["in_cache_us"]["median"]),
            "B/element": lambda row: f"{row['bytes_per_element']:g}",
            "of floor": lambda row: share(row.get("floor_us"), row["time_us"]["median"]),
            "launches": lambda row: str(row["launches"] or ""),
            "peak MB": lambda row: f"{row['peak_bytes'] / 1e6:.1f}",
        }
    return detailed(rows, columns, render)


def all_sizes(record: Record, render: Render) -> str:
    """Tabulate every contender at every size: microseconds, and the ratio to eager."""
    eager = {row["size"]: row for row in record["rows"] if row["contender"] == "eager"}

    def cell(row: Record) -> str:
        ratio = times_faster(row, eager.get(row["size"]))
        return median(row) + (f" ({ratio}x)" if ratio else "")

    return overview(record["rows"], lambda row: row["size"], cell, render)


def host(record: Record, render: Render) -> str:
    """Tabulate the host's cost of a call."""
    names = ("forward", "backward", "both")
    lines = [[row["contender"], *(number(row[name]) for name in names)] for row in record["host"]]
    return render(["contender", *(f"{name} us" for name in names)], lines)


def accuracy(record: Record, render: Render) -> str:
    """Tabulate the largest abs(r - exact): a row for each way, a column for each mean square error."""
    rows = record["accuracy"]
    errors = sorted({row["mse"] for row in rows})
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = {row["mse"]: row for row in rows if row["name"] == name}
        limit = mine[errors[0]]["limit"]
        cells = [small(mine[mse]["largest_error"]) for mse in errors]
        lines.append([name, *cells, "" if limit is None else f"{limit:.0e}"])
    return render(["largest error of r", *(f"MSE {mse:g}" for mse in errors), "limit"], lines)


def machine(record: Record, *, load: bool = False) -> str:
    """Describe machine, software and date in one line; load: also how busy it was before the run."""
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
    busy = f". Load of the machine before the run: {found['load']}." if load else ""
    return "; ".join(parts) + busy


def sizes(record: Record) -> list[str]:
    """Return the names of the sizes in a record."""
    return list(dict.fromkeys(row["size"] for row in record["rows"]))


def shape_of(record: Record, size: str) -> tuple[int, ...]:
    """Return the shape of a size's predictions."""
    return next(tuple(row["shape"]) for row in record["rows"] if row["size"] == size)


def opening(record: Record) -> str:
    """Return for the terminal what is known before the first size is timed."""
    shape = tuple(record["host"][0]["shape"]) if record["host"] else ()
    blocks = [machine(record), accuracy(record, text)]
    return "\n\n".join([*blocks, f"host cost of a call, {shape}\n{host(record, text)}"])


def size_text(record: Record, size: str) -> str:
    """Return for the terminal the table of one size."""
    shape = shape_of(record, size)
    return f"{size} {shape}, forward and backward\n{speed(record, size, text)}"
