"""A sweep's results: JSON, CSV, Markdown, and heat maps of the grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.evaluate.figures import png
from tglo.evaluate.results import Results
from tglo.evaluate.tables import Table, csv_text, markdown_table
from tglo.files import write_bytes, write_json
from tglo.sweep.points import Variations
from tglo.sweep.sampling import Scores

METRICS = ("loss", "implicit_accuracy", "saturated", "policy_error", "reference_error")


def write(
    output: Path, variations: Variations, rows: Sequence[Results], base: dict[str, float] | None
) -> None:
    """Write sweep.json, sweep.csv, sweep.md and sweep.png for the rows so far."""
    columns = header(variations, rows)
    lines = [cells(row, variations) for row in rows]
    content = {"variations": {k: list(v) for k, v in variations.items()}, "base": base}
    write_json(output / "sweep.json", {**content, "rows": list(rows)})
    write_bytes(output / "sweep.csv", csv_text([columns, *lines]).encode())
    write_bytes(output / "sweep.md", markdown(columns, lines, base).encode())
    write_bytes(output / "sweep.png", heat_maps(variations, rows, base))


def header(variations: Variations, rows: Sequence[Results]) -> list[str]:
    """Return the names of the table's columns."""
    scored = ["score", "standard error"] if rows and "scores" in rows[0] else []
    return [*variations, *scored, *METRICS]


def cells(row: Results, variations: Variations) -> list[Any]:
    """Return a row of the table, in the order of `header`."""
    scored = []
    if "scores" in row:
        scores = row["scores"]
        scored = [scores["mean"], Scores(**scores).error]
    metrics = [row["metrics"].get(name, "") for name in METRICS]
    return [*(row["values"][key] for key in variations), *scored, *metrics]


def markdown(columns: list[str], lines: list[list[Any]], base: dict[str, float] | None) -> str:
    """Return the table in Markdown, with the base's score above it."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [[cell(value) for value in line] for line in lines]
    text = markdown_table(Table("Sweep", columns, rows)) + "\n"
    if base is None:
        return text
    return f"Base model: mean score {base['mean']:.4g} over {base['count']} samples.\n\n{text}"


def heat_maps(
    variations: Variations, rows: Sequence[Results], base: dict[str, float] | None
) -> bytes:
    """Draw, as PNG, the score (or, without one, the implicit accuracy) over the grid.

    Of the keys with several values the first two span a map, every combination of the others has
    one. Points not yet run are left white.
    """
    from matplotlib.figure import Figure

    keys = [key for key in variations if len(variations[key]) > 1] or list(variations)[:1]
    down, across = keys[0], keys[1] if len(keys) > 1 else None
    others = keys[2:]
    scored = bool(rows) and "scores" in rows[0]
    worth = {
        tuple(repr(row["values"][key]) for key in keys): (
            row["scores"]["mean"] if scored else row["metrics"].get("implicit_accuracy", np.nan)
        )
        for row in rows
    }
    panels = list(itertools.product(*(variations[key] for key in others)))
    finite = [value for value in worth.values() if np.isfinite(value)] or [0.0]
    size = (1.4 + 2.6 * len(panels), 2.9)
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    image = None
    for axis, rest in zip(axes, panels, strict=True):
        grid: NDArray[np.float64] = np.array(
            [
                [
                    worth.get(tuple(map(repr, (v, *([w] if across else []), *rest))), np.nan)
                    for w in (variations[across] if across else [None])
                ]
                for v in variations[down]
            ]
        )
        image = axis.imshow(grid, vmin=min(finite), vmax=max(finite), cmap="viridis", aspect="auto")
        middle = (min(finite) + max(finite)) / 2
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                color = "black" if value > middle else "white"
                axis.text(j, i, f"{value:.3g}", ha="center", va="center", color=color, fontsize=9)
        axis.set_yticks(range(len(variations[down])), [str(v) for v in variations[down]])
        axis.set_ylabel(down, fontsize=8)
        axis.set_xticks(
            range(grid.shape[1]), [str(w) for w in variations[across]] if across else [""]
        )
        axis.set_xlabel(across or "", fontsize=8)
        title = ", ".join(f"{key.split('.')[-1]} {v}" for key, v in zip(others, rest, strict=True))
        axis.set_title(title, fontsize=9)
    name = "mean score" if scored else "implicit accuracy"
    label = name if base is None else f"{name} (base {base['mean']:.3g})"
    assert image is not None
    figure.colorbar(image, ax=list(axes), label=label)
    return png(figure)
