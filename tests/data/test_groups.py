"""Groups of G rows of one prompt and bucket: all scores are covered, nothing is in two groups."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tglo.data.groups import form_groups
from tglo.data.pairs import form_pairs


def test_groups_cover_the_scores_of_their_prompt() -> None:
    scores = np.arange(8) / 8
    groups = form_groups(["a"] * 8, [0] * 8, scores, 4, seed=0)
    assert groups.tolist() == [[6, 4, 2, 0], [7, 5, 3, 1]]  # the best first
    # Of 7 rows one group, from the lowest to the highest, evenly between.
    assert form_groups(["a"] * 7, [0] * 7, scores[:7], 4, seed=0).tolist() == [[6, 4, 2, 0]]


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_a_group_is_of_one_prompt_and_bucket_and_no_row_is_in_two(size: int) -> None:
    random = np.random.default_rng(size)
    prompts = [f"p{n}" for n in random.integers(0, 20, 400)]
    buckets = [(8, int(n)) for n in random.integers(0, 3, 400)]
    scores = random.integers(0, 5, 400) / 4
    groups = form_groups(prompts, buckets, scores, size, seed=3)
    assert groups.dtype == np.int64 and len(np.unique(groups)) == groups.size
    assert (np.diff(scores[groups], axis=1) <= 0).all()
    kinds = [{(prompts[row], buckets[row]) for row in group} for group in groups.tolist()]
    assert all(len(kind) == 1 for kind in kinds)
    _, counts = np.unique(
        [f"{p}{b}" for p, b in zip(prompts, buckets, strict=True)], return_counts=True
    )
    assert len(groups) == (counts // size).sum()


def test_pairs_are_groups_of_two_whose_scores_differ() -> None:
    random = np.random.default_rng(0)
    prompts, scores = [f"p{n}" for n in random.integers(0, 9, 60)], random.integers(0, 2, 60) / 1.0
    groups = form_groups(prompts, [0] * 60, scores, 2, seed=5)
    pairs = form_pairs(range(60), prompts, [0] * 60, scores, seed=5)
    different = groups[scores[groups[:, 0]] > scores[groups[:, 1]]]
    assert len(pairs) < len(groups) and np.array_equal(pairs, different)


def test_ties_follow_from_the_seed() -> None:
    arguments = (["a"] * 12, [0] * 12, np.zeros(12), 3)
    first, again, other = (form_groups(*arguments, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_what_is_left_out_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    prompts = ["a"] * 5 + ["b"] * 3
    with caplog.at_level(logging.INFO, "tglo"):
        form_groups(prompts, [0] * 8, np.arange(8.0), 4, seed=0)
    assert "1 groups of 4 from 4 of 8 rows; left out: 1 of 2 prompts" in caplog.text
    assert "4 rows that fill no group" in caplog.text


def test_no_group_at_all_is_refused() -> None:
    with pytest.raises(
        ValueError, match="no groups of 4: of 2 prompts none has 4 rows .* has 3.*group"
    ):
        form_groups(["a"] * 3 + ["b"] * 3, [0] * 6, np.arange(6.0), 4, seed=0)
    with pytest.raises(ValueError, match="the largest has 2.*--no-buckets"):
        form_groups(["a"] * 4, [0, 0, 1, 1], np.arange(4.0), 4, seed=0)
