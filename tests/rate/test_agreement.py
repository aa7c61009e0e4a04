"""Krippendorff's alpha against its published example, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from tglo.rate.agreement import alpha
from tglo.rate.book import SKIPPED

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units.
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]


def stars(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, dtype=np.int8)


def test_the_published_example() -> None:
    found, why = alpha(stars(EXAMPLE))
    assert found == pytest.approx(0.815, abs=5e-4) and not why


def test_skipped_images_do_not_count() -> None:
    skipped = [[SKIPPED if given == 0 else given for given in row] for row in EXAMPLE]
    assert alpha(stars(skipped)) == alpha(stars(EXAMPLE))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 2, 3]], "two raters"),
        ([[1, 2, 3], [0, SKIPPED, 0]], "two raters"),
        ([[1, 2, 0], [0, 0, 3]], "no image has ratings of two"),
        ([[4, 1, 0], [4, 0, 3]], "have the same stars"),
    ],
)
def test_where_there_is_none(rows: list[list[int]], said: str) -> None:
    found, why = alpha(stars(rows))
    assert found is None and said in why


def test_full_agreement_and_none() -> None:
    assert alpha(stars([[1, 2, 3, 5], [1, 2, 3, 5]]))[0] == pytest.approx(1.0)
    assert (alpha(stars([[1, 5, 1, 5], [5, 1, 5, 1]]))[0] or 0) < 0
