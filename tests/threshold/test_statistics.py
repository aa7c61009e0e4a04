from __future__ import annotations

import numpy as np

from tglo.threshold.statistics import quantiles_within


def test_quantiles_are_among_the_scores_of_the_prompt() -> None:
    scores = np.array([0.1, 5.0, 0.3, 6.0, 0.2, 5.0, 4.0])
    found = quantiles_within(scores, ["a", "b", "a", "b", "a", "b", "b"])
    np.testing.assert_array_equal(found, [1 / 3, 3 / 4, 1, 1, 2 / 3, 3 / 4, 1 / 4])


def test_a_prompt_of_one_row_is_ranked_among_all() -> None:
    found = quantiles_within(np.array([1.0, 2.0, 3.0, 4.0]), ["a", "b", "c", "c"])
    np.testing.assert_array_equal(found, [1 / 4, 2 / 4, 1 / 2, 1])
