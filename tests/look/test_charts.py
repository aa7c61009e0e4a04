"""The shapes of histograms."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tglo.look.charts import chart
from tglo.look.scores import histogram


def test_bars_stand_on_each_other() -> None:
    bars = histogram(np.array([1.0, 2, 2, 2, 3]), np.array([0, 0, 1, 1, 1], dtype=bool))
    found = chart(bars, "scores", lines=[(2.0, "threshold 2")])
    tops = [
        float(base) - float(height)
        for base, height in re.findall(r" ([\d.]+)v-([\d.]+)", found.positives)
    ]
    assert tops == pytest.approx([0, 100 - 100 / 3], abs=0.02)
    assert found.lines[0].place == 50 and found.most == "3 samples"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 2, 3, 4, 5], ["1", "2", "3", "4", "5"]),
        ([0.201, 0.2455, 0.3], ["0.20", "0.25", "0.30"]),
        ([-1e9, 1e9], ["-2e+09", "2e+09"]),
    ],
)
def test_ticks_are_round_and_inside(values: list[float], ticks: list[str]) -> None:
    found = chart(histogram(np.array(values, dtype=float)), "scores")
    written = [tick.text for tick in found.ticks]
    assert all(0 <= tick.place <= 100 for tick in found.ticks)
    assert written == ticks
