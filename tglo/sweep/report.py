"""A sweep's results: JSON, CSV, Markdown, and heat maps of the grid."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.evaluate.figures import panel_grid, png
from tglo.evaluate.results import Results
from tglo.evaluate.tables import Judged, Table, change, csv_text, markdown_table
from tglo.files import write_bytes, write_json
from tglo.sweep.points import Variations

METRICS = ("loss", "implicit_accuracy", "saturated", "policy_error", "reference_error")
MINUS_BASE, LOW, HIGH = "minus base", "minus base, low", "minus base, high"
UNSHOWN = ("standard error", LOW, HIGH)
"""Columns of sweep.csv that people see as an interval."""


def write(
    output: Path, variations: Variations, rows: Sequence[Results], base: dict[str, float] | None
) -> None:
    """Write sweep.json, sweep.csv, sweep.md and sweep.png for the rows so far, at least one."""
    lines = [cells(row, variations) for row in rows]
    columns = list(lines[0])
    content = {"variations": {k: list(v) for k, v in variations.items()}, "base": base}
    write_json(output / "sweep.json", {**content, "rows": list(rows)})
    text = csv_text([columns, *([*line.values()] for line in lines)])
    write_bytes(output / "sweep.csv", text.encode())
    shown = [{**line, MINUS_BASE: _change(row)} for line, row in zip(lines, rows, strict=True)]
    columns = [name for name in columns if name not in UNSHOWN]
    text = markdown_table(Table("Sweep", columns, [[_text(s[c]) for c in columns] for s in shown]))
    if base is not None:
        text = (
            f"Base model: mean score {base['mean']:.4g} over {base['count']} samples. {MINUS_BASE}: on the "
            f"same prompts and seeds, with 95% intervals from a bootstrap over the prompts.\n\n{text}"
        )
    write_bytes(output / "sweep.md", f"{text}\n".encode())
    write_bytes(output / "sweep.png", heat_maps(variations, rows, base))


def cells(row: Results, variations: Variations) -> dict[str, Any]:
    """Return a line of the table, column by column."""
    found = {key: row["values"][key] for key in variations}
    if "scores" in row:
        scores = row["scores"]
        # As if the samples were independent.
        error = scores["deviation"] / math.sqrt(scores["count"])
        found |= {"score": scores["mean"], "standard error": error}
        apart = row.get("difference") or dict.fromkeys(("value", "low", "high"), "")
        found |= {MINUS_BASE: apart["value"], LOW: apart["low"], HIGH: apart["high"]}
    return found | {name: row["metrics"].get(name, "") for name in METRICS}


def _change(row: Results) -> str | Judged:
    apart = row.get("difference")
    return change(apart) if apart else ""


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def heat_maps(
    variations: Variations, rows: Sequence[Results], base: dict[str, float] | None
) -> bytes:
    """Draw, as PNG, the score (or, without one, the implicit accuracy) over the grid.

    Of the keys with several values the first two span a map, every combination of the others has
    one. Points not yet run are left white.
    """
    keys = [key for key in variations if len(variations[key]) > 1] or list(variations)[:1]
    down, across, others = keys[0], keys[1] if len(keys) > 1 else "", keys[2:]
    columns = variations.get(across, [None])
    scored = "scores" in rows[0]
    worth = {}
    for row in rows:
        place = tuple(repr(row["values"].get(key)) for key in (down, across, *others))
        accuracy = row["metrics"].get("implicit_accuracy", np.nan)
        worth[place] = row["scores"]["mean"] if scored else accuracy
    finite = [value for value in worth.values() if np.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    panels = list(itertools.product(*(variations[key] for key in others)))
    width = max(1.4 + 2.6 * len(panels), 4.5)
    figure, [axes] = panel_grid((width, 2.9), columns=len(panels))
    axes[0].set_ylabel(down, fontsize=8)
    for axis, rest in zip(axes, panels, strict=True):
        grid: NDArray[np.float64] = np.array(
            [
                [worth.get(tuple(map(repr, (v, w, *rest))), np.nan) for w in columns]
                for v in variations[down]
            ]
        )
        image = axis.imshow(grid, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                color = "black" if value > (low + high) / 2 else "white"
                axis.text(j, i, f"{value:.3g}", ha="center", va="center", color=color, fontsize=9)
        axis.set_yticks(range(len(variations[down])), [str(v) for v in variations[down]])
        axis.set_xticks(range(len(columns)), ["" if w is None else str(w) for w in columns])
        axis.set_xlabel(across, fontsize=8)
        title = ", ".join(f"{key.split('.')[-1]} {v}" for key, v in zip(others, rest, strict=True))
        axis.set_title("\n".join(textwrap.wrap(title, 30)), fontsize=9)
    name = "mean score" if scored else "implicit accuracy"
    label = name if base is None else f"{name} (base {base['mean']:.3g})"
    figure.colorbar(image, ax=list(axes), label=label)
    return png(figure)
