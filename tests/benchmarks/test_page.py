"""Figures of the measured pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.page import bars
from benchmarks.step import tables


def row(contender: str, low: float, high: float) -> dict[str, object]:
    time = {"median": 5e5, "low": low, "high": high}
    return {"contender": contender, "batch": 2, "samples_per_second": 4.0, "time_us": time}


def test_bars_show_the_spread_of_repetitions(tmp_path: Path) -> None:
    assert tables._spread(row("tglo", 4e5, 1e6)) == (2.0, 5.0)

    def drawn(low: float, high: float) -> np.ndarray:
        rows = [row("tglo cached", low, high), row("a peer", 5e5, 5e5)]
        value = lambda r: r["samples_per_second"]  # noqa: E731
        path = tmp_path / "bars.png"
        bars(path, [("title", rows)], value, tables._spread, lambda r: "4", "axis", room=1.2)
        return np.asarray(Image.open(path).convert("L"), dtype=int)

    exact, spread = drawn(5e5, 5e5), drawn(4e5, 6e5)
    # In the bar of the lower half a dark line lies before its end, and another after it.
    assert (spread[spread.shape[0] // 2 :] < 80).sum() > (exact[exact.shape[0] // 2 :] < 80).sum()
