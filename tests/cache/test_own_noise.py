"""Seeds in a manifest's cells, as the formats and other tools write them, and the noise they stand for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tglo.cache.own_noise import OwnNoise
from tglo.data.errors import ManifestError
from tglo.data.manifest import Row

LAST = 2**32 - 1


def row(line: int, seed: Any, sample_id: int = 0, family: Any = "flux") -> Row:
    return Row(sample_id, "a", "a.png", 0.5, line, {"seed": seed, "family": family})


@pytest.mark.parametrize("cell", [LAST, str(LAST), f"{LAST}.0", f" {LAST} ", float(LAST)])
def test_a_seed_is_read_from_text_and_numbers(cell: Any) -> None:
    expected = torch.randn((4, 2, 3), generator=torch.Generator().manual_seed(LAST))
    own = OwnNoise([row(2, 5, 1), row(3, cell, 7)], "scored.csv")
    assert torch.equal(own.batch([7, 1, 7], (4, 2, 3))[[0, 2]], expected.expand(2, 4, 2, 3))


@pytest.mark.parametrize(
    "cell", ["-1", -1, LAST + 1, str(LAST + 1), "1e5", "0x10", "abc", 1.5, True, math.inf, [3], "9" * 5000]
)  # fmt: skip
def test_what_is_no_seed_is_refused_by_its_line(cell: Any) -> None:
    with pytest.raises(
        ManifestError, match=r"1 rows of scored.csv are refused: line 3: the seed is"
    ):
        OwnNoise([row(2, 5), row(3, cell, 7)], "scored.csv")


@pytest.mark.parametrize("cell", [None, "", math.nan])
def test_an_empty_cell_is_no_seed_and_no_family(cell: Any) -> None:
    for rows in ([row(3, cell)], [row(3, 5, family=cell)], [Row(0, "a", "a.png", 0.5, 3)]):
        with pytest.raises(ManifestError, match=r"lines \[3\]\) have no 'seed' and 'family'"):
            OwnNoise(rows, "scored.csv")


def test_an_image_has_one_seed_in_all_its_rows() -> None:
    OwnNoise([row(2, 5), row(3, "5")], "scored.csv")
    with pytest.raises(ManifestError, match="line 3: its image has another seed in line 2"):
        OwnNoise([row(2, 5), row(3, 6)], "scored.csv")


def test_seeds_are_part_of_what_errors_were_made_of() -> None:
    inputs = np.arange(8, dtype=np.int64).reshape(2, 4)
    one, other = (OwnNoise([row(2, 5, 1), row(3, seed, 7)], "") for seed in (6, LAST))
    same = one.mixed(inputs, [1, 7]) == other.mixed(inputs, [1, 7])
    assert same.all(1).tolist() == [True, False] and inputs[0, 0] == 0
    again = OwnNoise([row(2, 6, 7), row(3, 5, 1)], "")
    assert one.digest() == again.digest() != other.digest()
