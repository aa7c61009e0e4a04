from __future__ import annotations

import numpy as np
import pytest

from tglo.data.sampler import BatchSampler


def sampler(buckets, micro=4, accumulation=1, world=1, seed=0):
    return BatchSampler(
        buckets, micro_batch=micro, accumulation=accumulation, world_size=world, seed=seed
    )


def epoch_batches(s, epoch=0):
    first = epoch * s.steps_per_epoch
    return [
        [
            s.batch(step, micro, rank)[0]
            for micro in range(s.accumulation)
            for rank in range(s.world_size)
        ]
        for step in range(first, first + s.steps_per_epoch)
    ]


def mixed_buckets(count):
    sides = [(64, 64), (64, 96), (96, 64)]
    return [sides[i] for i in np.random.default_rng(1).integers(0, 3, size=count)]


@pytest.mark.parametrize("count", [8, 9, 10, 11, 31])
def test_one_bucket_depends_on_the_global_batch_alone(count):
    one = sampler([(8, 8)] * count, micro=8)
    splits = [(4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 1, 8)]
    for epoch in range(2):
        expected = [sorted(np.concatenate(step)) for step in epoch_batches(one, epoch)]
        for micro, accumulation, world in splits:
            other = sampler([(8, 8)] * count, micro, accumulation, world)
            assert other.steps_per_epoch == one.steps_per_epoch
            assert [sorted(np.concatenate(s)) for s in epoch_batches(other, epoch)] == expected


@pytest.mark.parametrize(("micro", "accumulation", "world"), [(4, 1, 1), (3, 2, 2), (1, 1, 2)])
def test_every_row_comes_and_a_micro_batch_has_one_bucket(micro, accumulation, world):
    buckets = mixed_buckets(50)
    s = sampler(buckets, micro, accumulation, world)
    batches = [b for step in epoch_batches(s) for b in step]
    assert set(np.concatenate(batches).tolist()) == set(range(50))
    assert all(len({buckets[row] for row in batch}) == 1 for batch in batches)
    assert all(batch.shape == (micro,) and batch.dtype == np.int64 for batch in batches)
    # only remainders are repeated: less than a micro batch per bucket, less than a step in all
    assert len(batches) * micro - 50 < 3 * micro + micro * accumulation * world


def test_a_batch_is_a_pure_function_of_its_place():
    buckets = mixed_buckets(40)
    straight = sampler(buckets, 2, 2, 2, seed=7)
    places = [
        (s, m, r) for s in range(3 * straight.steps_per_epoch) for m in (0, 1) for r in (0, 1)
    ]
    expected = {place: straight.batch(*place) for place in places}
    resumed = sampler(buckets, 2, 2, 2, seed=7)
    for place in reversed(places):
        rows, draw = resumed.batch(*place)
        assert np.array_equal(rows, expected[place][0]) and draw == expected[place][1]
        rows[:] = -1  # the caller's copy: nothing inside may change


def test_epochs_and_seeds_differ_and_the_draw_is_the_epoch():
    s = sampler([0] * 64)
    first, second = np.concatenate(epoch_batches(s, 0)), np.concatenate(epoch_batches(s, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.concatenate(epoch_batches(sampler([0] * 64, seed=1), 0)))
    assert [s.batch(step, 0, 0)[1] for step in (0, 15, 16, 47, 48)] == [0, 0, 1, 2, 3]


def test_the_order_is_pinned():
    """A resume under another numpy must find the same order: these are Philox's raw bits."""
    rows = [sampler([0, 1] * 6, micro=2, seed=3).batch(step, 0, 0)[0].tolist() for step in range(3)]
    assert rows == [[6, 8], [1, 11], [5, 7]]


def test_a_small_bucket_repeats_its_own_rows():
    s = sampler(["wide"] + ["square"] * 9, micro=4)
    batches = [b.tolist() for step in epoch_batches(s) for b in step]
    assert [0, 0, 0, 0] in batches


def test_bad_settings():
    with pytest.raises(ValueError, match="data set is empty"):
        sampler([])
    with pytest.raises(ValueError, match=r"7 rows are fewer than the global batch of 8.*2 ranks"):
        sampler([0] * 7, micro=2, accumulation=2, world=2)
    with pytest.raises(ValueError, match="micro_batch must be at least 1, got 0"):
        sampler([0] * 7, micro=0)
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^32\), got -1"):
        sampler([0] * 7, seed=-1)
    s = sampler([0] * 8, micro=2, world=2)
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        s.batch(0, 0, 2)
    with pytest.raises(ValueError, match="step must be in"):
        s.batch(-1, 0, 0)
