from __future__ import annotations

import pytest

from tglo.data.buckets import bucket_step, make_buckets, nearest_bucket


@pytest.mark.parametrize(("resolution", "step"), [(1024, 64), (512, 64), (512, 8), (64, 8)])
def test_buckets_keep_area_aspect_and_step(resolution, step):
    buckets = make_buckets(resolution, step=step)
    assert (resolution, resolution) in buckets
    assert len(set(buckets)) == len(buckets) > 2
    for height, width in buckets:
        assert height % step == width % step == 0
        assert 0.8 * resolution**2 < height * width <= resolution**2
        assert 0.5 <= height / width <= 2
        assert (width, height) in buckets


def test_square_only():
    assert make_buckets(64, step=8, max_aspect=1.0) == [(64, 64)]


def test_nearest_is_by_proportion():
    buckets = make_buckets(1024)
    assert nearest_bucket(1024, 1024, buckets) == (1024, 1024)
    assert nearest_bucket(10, 10, buckets) == (1024, 1024)
    assert nearest_bucket(1000, 3000, buckets) == (768, 1344)
    assert nearest_bucket(3000, 1000, buckets) == (1344, 768)
    assert nearest_bucket(2, 2, [(8, 8), (16, 16)]) == (16, 16)


def test_the_step_grows_with_the_resolution():
    assert bucket_step(1024, 64) == 64
    assert bucket_step(1024, 8) == 64
    assert bucket_step(512, 8) == 32
    assert bucket_step(64, 8) == 8
    assert bucket_step(72, 8) == 8


def test_bad_settings():
    with pytest.raises(ValueError, match=r"multiple of 64 .* got 1000; 960 is one"):
        make_buckets(1000)
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        make_buckets(64, step=8, max_aspect=0.5)
    with pytest.raises(ValueError, match="got 0 x 5"):
        nearest_bucket(0, 5, [(8, 8)])
