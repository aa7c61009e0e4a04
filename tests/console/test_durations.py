"""Durations in words."""

from __future__ import annotations

import pytest

from tglo.console.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "1 h 30 min"), (5340, "89 min"),
        (12_000, "3 h 20 min"), (187_200, "2 d 4 h"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
