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
def test_a_micro_batch_has_one_bucket_and_every_row_comes(micro, accumulation, world):
    buckets = mixed_buckets(50)
    s = sampler(buckets, micro, accumulation, world)
    batches = [b for epoch in range(3) for step in epoch_batches(s, epoch) for b in step]
    assert set(np.concatenate(batches).tolist()) == set(range(50))
    assert all(len({buckets[row] for row in batch}) == 1 for batch in batches)
    assert all(batch.shape == (micro,) and batch.dtype == np.int64 for batch in batches)


RARE = ["square"] * 990 + ["wide"] * 5 + ["tall"] * 5


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("micro", [1, 8, 32])
def test_every_row_counts_the_same(micro, world):
    """Also those of a bucket that does not fill a micro batch: it comes every few epochs."""
    s = sampler(RARE, micro, 1, world, seed=5)
    epochs = 3 * 64  # in 32 / 5 epochs a rare bucket fills one micro batch, in 64 ten
    draws = [
        s.batch(step, 0, rank)
        for step in range(epochs * s.steps_per_epoch)
        for rank in range(world)
    ]
    times = np.bincount(np.concatenate([rows for rows, _ in draws]), minlength=len(RARE))
    mean = times.mean()
    by_bucket = [times[:990].mean(), times[990:995].mean(), times[995:].mean()]
    # a bucket is within two turns of its share, and in a turn its rows differ by one pass
    assert all(abs(found - mean) <= 2 * micro / 5 for found in by_bucket)
    assert times.max() - times.min() <= 2 * micro / 5 + 2
    whole, part = s.shares(epochs * s.steps_per_epoch), micro / 5 / mean
    assert list(whole) == ["square", "wide", "tall"]
    for found, told in zip(by_bucket, whole.values(), strict=True):
        assert found / mean == pytest.approx(told) == pytest.approx(1, abs=2 * part)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("micro", [1, 8, 32])
def test_a_row_counts_once_an_epoch_in_expectation(micro, world):
    """One epoch alone, over seeds: a rare bucket comes in some of them."""
    found = [sampler(RARE, micro, 1, world, seed=seed) for seed in range(600)]
    shares = np.array([list(s.shares(s.steps_per_epoch).values()) for s in found])
    # one turn more or less counts micro / 5 times a row's share
    error = 4 * max(micro / 5, 1) / 2 / np.sqrt(len(found))
    assert np.abs(shares.mean(0) - 1).max() < error


def test_one_wide_image_of_24_is_no_quarter_of_all():
    s = sampler(["square"] * 23 + ["wide"], micro=8)
    rows = np.concatenate([s.batch(step, 0, 0)[0] for step in range(240)])
    assert (rows == 23).mean() == pytest.approx(1 / 24, abs=0.005)


def test_a_row_that_comes_again_has_another_draw():
    """Each row goes through its draws in turn, whatever its bucket; so cached draws are used evenly."""
    s = sampler(["square"] * 9 + ["wide"] * 2, micro=4, world=1)
    seen: dict[int, list[int]] = {}
    for step in range(40 * s.steps_per_epoch):
        for row, draw in zip(*s.batch(step, 0, 0), strict=True):
            seen.setdefault(int(row), []).append(int(draw))
    for row, draws in seen.items():
        assert sorted(draws) == list(range(len(draws))), row
        assert len(draws) == pytest.approx(40, abs=7)


def test_steps_of_a_rare_bucket_hold_whole_batches_of_it():
    s = sampler(["wide"] * 2 + ["square"] * 20, micro=4)
    batches = [b.tolist() for epoch in range(8) for step in epoch_batches(s, epoch) for b in step]
    wide = [sorted(batch) for batch in batches if 0 in batch]
    assert wide and all(batch == [0, 0, 1, 1] for batch in wide)


def test_turns_follow_from_the_epoch_alone():
    """The turns before an epoch are those that its predecessors had."""
    s = sampler(mixed_buckets(57), 3, 2, 2, seed=9)
    before = np.zeros(3, dtype=np.int64)
    for epoch in range(60):
        buckets = np.array([s.buckets.index(bucket) for bucket in mixed_buckets(57)])
        assert np.array_equal(s._given(epoch * s._per_epoch), before)
        before += np.bincount(
            [buckets[b[0]] for step in epoch_batches(s, epoch) for b in step], minlength=3
        )


def test_what_is_told_of_the_buckets(caplog):
    with caplog.at_level("INFO", logger="tglo"):
        sampler(["square"] * 64).report(100)
        assert not caplog.messages
        s = sampler(RARE, micro=32)
        s.report(100 * s.steps_per_epoch)
        s.report(s.steps_per_epoch)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "wide, whose rows count 0.00 times as much as the mean (5 of them" in caplog.messages[1]
    assert caplog.messages[1].endswith("Train longer or with smaller micro batches")


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
        assert np.array_equal(rows, expected[place][0])
        assert np.array_equal(draw, expected[place][1])
        rows[:] = -1  # the caller's copy: nothing inside may change


def test_epochs_and_seeds_differ_and_the_draw_is_the_epoch():
    s = sampler([0] * 64)
    first, second = np.concatenate(epoch_batches(s, 0)), np.concatenate(epoch_batches(s, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.concatenate(epoch_batches(sampler([0] * 64, seed=1), 0)))
    draws = [s.batch(step, 0, 0)[1].tolist() for step in (0, 15, 16, 47, 48)]
    assert draws == [[epoch] * 4 for epoch in (0, 0, 1, 2, 3)]


def test_the_order_is_pinned():
    """A resume under another numpy must find the same order: these are Philox's raw bits.

    An order that is to be another needs another ORDER_VERSION.
    """
    one = sampler([0] * 13, 2, 2, 2, seed=3)
    assert [[b.tolist() for b in step] for step in epoch_batches(one)] == [
        [[6, 1], [11, 8], [5, 2], [7, 10]],
        [[9, 4], [3, 12], [0, 6], [1, 11]],
    ]
    two = sampler([0, 0, 1] * 4, micro=2, seed=3)
    assert [b.tolist() for step in epoch_batches(two, 1) for b in step] == [
        [10, 3],
        [7, 9],
        [0, 6],
        [8, 2],
        [4, 1],
        [11, 5],
    ]


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
