"""The measured parts of the documents: the text between a page's markers, and figures with bars."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tglo.bench.record import Record, newest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def fill(page: str, found: Mapping[str, str], kind: str = "measured") -> str:
    """Replace every block of the page between its markers. ValueError if a marker is missing."""
    for name, content in found.items():
        begin, end = f"<!-- {kind}: {name} -->", f"<!-- end: {name} -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise ValueError(f"the page lacks {begin} or {end}; put both where the part belongs")
        page = f"{before}{begin}\n{content}\n{end}{after}"
    return page


def rewrite(
    path: Path,
    found: Mapping[str, str],
    about: str | None,
    arguments: Sequence[str] | None,
    *,
    kind: str = "measured",
    others: Callable[[], None] = lambda: None,
) -> int:
    """Run a command that fills a page, and then makes `others`, or with --check only says whether the
    page is up to date; returns the exit status, 1 if it is not.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    current = path.read_text()
    page = fill(current, found, kind)
    if parser.parse_args(arguments).check:
        print(f"{path.name} is {'up to date' if page == current else 'out of date'}")
        return int(page != current)
    path.write_text(page)
    others()
    print(f"wrote {path}")
    return 0


def by_device(
    name: str, records: Sequence[Record], block: Callable[[Record], str], absent: str
) -> dict[str, str]:
    """Return the blocks "NAME cpu" and "NAME gpu", each from the newest record of that device."""
    found = {device: block(record) for device, record in newest(records).items()}
    return {
        f"{name} cpu": found.get("cpu", "Not measured yet."),
        f"{name} gpu": found.get("cuda", absent),
    }


def bars(
    path: Path,
    panels: Sequence[tuple[str, Sequence[Record]]],
    length: Callable[[Record], float],
    spread: Callable[[Record], tuple[float, float]],
    label: Callable[[Record], str],
    axis: str,
    *,
    room: float,
) -> None:
    """Draw a panel with a bar for each row, tglo's in blue, the first row at the bottom.

    panels: titles and rows; spread: the ends of a row's repetitions, in the unit of its length; room: the
    axis's length over that of the longest bar.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, several = pyplot.subplots(
        len(panels), 1, figsize=(7.5, 3.3 * len(panels)), squeeze=False, layout="constrained"
    )
    for axes, (title, rows) in zip(several[:, 0], panels, strict=True):
        lengths = [length(row) for row in rows]
        colors = ["#2b6ca3" if r["contender"].startswith("tglo") else "#b3b3b3" for r in rows]
        ends = [spread(row) for row in rows]
        whiskers = [
            [value - low for value, (low, _) in zip(lengths, ends, strict=True)],
            [high - value for value, (_, high) in zip(lengths, ends, strict=True)],
        ]
        names = [row["contender"] for row in rows]
        style = {"linewidth": 1, "ecolor": "#222222"}
        axes.barh(
            names, lengths, color=colors, height=0.7, xerr=whiskers, capsize=2, error_kw=style
        )
        for index, (row, (_, high)) in enumerate(zip(rows, ends, strict=True)):
            axes.text(high, index, f"  {label(row)}", va="center", fontsize=8)
        axes.set_xlim(0, room * max(high for _, high in ends))
        axes.set_xlabel(axis, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def device_name(record: Record) -> str:
    """Return the GPU's name, or the number of threads on the CPU."""
    if record["device"] == "cuda":
        return str(record["gpu"]["name"])
    return f"CPU, {record['machine']['threads']} threads"


def source(folder: str, record: Record) -> str:
    """Return the path of a record in `folder` of the results, as a page shows it."""
    return f"`benchmarks/results/{folder}{record['file']}`"
