"""Columns for a terminal."""

from __future__ import annotations

import pytest

from tglo.columns import aligned


def test_the_first_columns_go_to_the_left_and_the_others_to_the_right() -> None:
    lines = [["name", "a", "b"], ["x", "10", ""]]
    assert aligned(lines) == "name   a  b\nx     10"
    assert aligned(lines, left=3) == "name  a   b\nx     10"


def test_lines_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        aligned([["name", "a"], ["x"]])
