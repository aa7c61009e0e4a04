"""Codes for repeated values: the same sequences, groups and statistics as of the values themselves."""

from __future__ import annotations

import numpy as np
import pytest

from tglo.coded import Coded, first_come, numbered
from tglo.data.groups import form_groups
from tglo.threshold.frozen import estimate
from tglo.threshold.statistics import one_label_share, quantiles_within

NAMES = [f"prompt {i}" for i in range(30)]


def sample(seed: int, count: int = 120) -> tuple[Coded[str], list[str], np.ndarray]:
    random = np.random.default_rng(seed)
    codes = random.integers(0, len(NAMES), count).astype(np.int32)
    scores = random.normal(size=count) if seed % 2 else random.integers(0, 4, count) / 3
    return Coded(NAMES, codes), [NAMES[code] for code in codes], scores


def test_it_is_the_sequence_that_it_stands_for() -> None:
    coded, plain, _ = sample(0)
    assert coded == plain and list(coded) == plain and coded[-1] == plain[-1]
    assert coded[3:9] == plain[3:9] and coded.take(np.array([5, 5, 2])) == [
        plain[5],
        plain[5],
        plain[2],
    ]
    assert coded != plain[:-1] and coded != [*plain[:-1], "other"] and len(coded) == len(plain)


@pytest.mark.parametrize("seed", range(4))
def test_numbers_follow_from_the_values_alone(seed: int) -> None:
    coded, plain, scores = sample(seed)
    names, numbers = numbered(coded)
    other_names, other_numbers = numbered(plain)
    assert names == other_names == list(dict.fromkeys(plain))
    assert np.array_equal(numbers, other_numbers)
    assert np.array_equal(quantiles_within(scores, coded), quantiles_within(scores, plain))
    label = scores > 0.4
    assert one_label_share(label, coded) == one_label_share(label, plain)
    for options in ({"kappa": 2.0}, {"baseline": "oracle"}):
        ours, theirs = (estimate(scores, prompts=p, **options) for p in (coded, plain))
        assert ours.plain() == theirs.plain()
        assert np.array_equal(ours.for_prompts(coded), theirs.for_prompts(plain))
    buckets = [(8, int(n)) for n in np.random.default_rng(seed).integers(0, 2, len(plain))]
    ours, theirs = (form_groups(p, buckets, scores, 2, seed) for p in (coded, plain))
    assert np.array_equal(ours, theirs)


def test_quantiles_are_those_of_each_prompt_alone() -> None:
    for seed in range(4):
        _, plain, scores = sample(seed, 60)
        found = quantiles_within(scores, plain)
        for row, prompt in enumerate(plain):
            own = [s for s, p in zip(scores, plain, strict=True) if p == prompt]
            among = np.array(own if len(own) > 1 else scores)
            assert found[row] == (among <= scores[row]).mean()


def test_first_come_leaves_out_what_does_not_occur() -> None:
    found, numbers = first_come(np.array([7, 2, 7, 5]), 9)
    assert found.tolist() == [7, 2, 5] and numbers.tolist() == [0, 1, 0, 2]
