from __future__ import annotations

import numpy as np
import pytest

from tglo.data.pairs import form_pairs


def rows_of(pairs):
    return sorted(pairs.reshape(-1).tolist())


def test_the_better_half_meets_the_worse_half():
    scores = np.array([0.1, 0.9, 0.5, 0.3, 0.7, 0.2])
    pairs = form_pairs(range(6), ["a"] * 6, [(8, 8)] * 6, scores, seed=0)
    assert sorted(pairs.tolist()) == [[1, 3], [2, 0], [4, 5]]  # .9 .3, .5 .1, .7 .2
    assert pairs.dtype == np.int64


def test_pairs_are_of_one_prompt_one_bucket_and_different_scores():
    random = np.random.default_rng(0)
    prompts = [f"prompt {i}" for i in random.integers(0, 20, 300)]
    buckets = [[(8, 8), (8, 16)][i] for i in random.integers(0, 2, 300)]
    scores = random.integers(1, 4, 300).astype(float)
    pairs = form_pairs(range(300), prompts, buckets, scores, seed=3)
    assert len(set(rows_of(pairs))) == 2 * len(pairs) > 200
    for winner, loser in pairs:
        assert prompts[winner] == prompts[loser] and buckets[winner] == buckets[loser]
        assert scores[winner] > scores[loser]
    # As many as there can be, up to one for each of the groups of an odd number of rows.
    groups = {}
    for row in range(300):
        groups.setdefault((prompts[row], buckets[row]), []).append(scores[row])
    most = sum(
        min(len(group) // 2, len(group) - max(map(group.count, group))) for group in groups.values()
    )
    assert len(pairs) == most


def test_the_seed_breaks_ties_and_nothing_else():
    scores = np.array([1.0] * 6 + [2.0] * 4)
    arguments = range(10), ["a"] * 10, [0] * 10, scores
    first, again, other = (form_pairs(*arguments, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(first) == 4 and set(first[:, 0]) == set(other[:, 0]) == {6, 7, 8, 9}


@pytest.mark.parametrize(
    ("prompts", "scores", "buckets", "counts"),
    [
        ("abcd", [1, 2, 3, 4], [0] * 4, "of 4 prompts 0 have two rows or more, 0 of those with"),
        ("aabc", [1, 1, 3, 4], [0] * 4, "of 3 prompts 1 have two rows or more, 0 of those with"),
        ("aabb", [1, 2, 2, 2], [0, 1, 0, 0], "of 2 prompts 2 have two rows or more, 1 of those"),
    ],
)
def test_no_pair_is_explained(prompts, scores, buckets, counts):
    with pytest.raises(ValueError, match=f"no pairs: {counts}.*--no-buckets"):
        form_pairs(range(4), list(prompts), buckets, np.array(scores, dtype=float), seed=0)


def test_an_image_scored_twice_is_no_pair_with_itself():
    scores = np.array([1.0, 4.0, 2.0, 3.0])
    pairs = form_pairs([7, 7, 7, 8], ["a"] * 4, [0] * 4, scores, seed=0)
    assert pairs.tolist() == [[3, 0]]
    with pytest.raises(ValueError, match="no pairs"):
        form_pairs([7, 7], ["a"] * 2, [0] * 2, scores[:2], seed=0)
