"""Each rater's order follows from the seed and the name, and stays when images are added."""

from __future__ import annotations

import numpy as np

from tglo.rate.order import choose, order_of

SAMPLES = [int(sample) for sample in np.random.default_rng(0).integers(0, 2**63, 500)]


def test_an_order_is_everybodys_own_and_repeatable() -> None:
    ann = order_of("Ann", SAMPLES, 0)
    assert sorted(ann.tolist()) == list(range(500)) and ann.tolist() != list(range(500))
    assert order_of("ann", SAMPLES, 0).tolist() == ann.tolist()
    assert order_of("Ann", SAMPLES, 0)[:4].tolist() == [475, 24, 365, 420]
    for other in (order_of("Bob", SAMPLES, 0), order_of("Ann", SAMPLES, 1)):
        assert (other == ann).mean() < 0.02 and abs(np.corrcoef(other, ann)[0, 1]) < 0.2


def test_added_images_leave_the_order_of_the_others() -> None:
    fewer = [SAMPLES[image] for image in order_of("Ann", SAMPLES[100:], 0) + 100]
    every = [SAMPLES[image] for image in order_of("Ann", SAMPLES, 0)]
    assert [sample for sample in every if sample in set(fewer)] == fewer


def test_choosing() -> None:
    order = np.array([3, 1, 0, 2])
    free = np.array([True, True, False, True])
    counts = np.array([0, 2, 0, 1], np.int16)
    assert choose(order, free, counts, 0, 2) == [3, 1]
    assert choose(order, free, counts, 0, 9) == [3, 1, 0]
    assert choose(order, free, counts, 3, 9) == [0, 3, 1]
    assert choose(order, free, counts, 2, 9) == [0, 3]
    assert choose(order, free, counts, 1, 9) == [0]
    assert choose(order, free | True, counts, 3, 9) == [0, 2, 3, 1]
