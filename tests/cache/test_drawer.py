"""Draws: the same whatever the batch, stratified over the schedule where asked for."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from tests.train.conftest import caches, manifest, sd15, sdxl  # noqa: F401  (fixtures)
from tglo import models, noise
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.latents import LatentCache

RULE = DrawRule(seed=3, caption_dropout=0.5, draws=4, stratified=True)


def schedule(steps: int) -> noise.Schedule:
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=steps)
    return noise.Schedule.from_scheduler(scheduler)


@pytest.mark.parametrize("strata", [2, 8, 13])
def test_draws_of_a_sample_fall_into_different_parts_of_the_schedule(strata: int) -> None:
    ids = torch.arange(500)
    for turn in (0, 5):
        draws = [noise.Key(7, ids, strata * turn + k) for k in range(strata)]
        index = torch.stack([noise.draw_index(key, schedule(1000), strata) for key in draws])
        part = torch.arange(strata)[:, None]
        ascending = index.double().sort(dim=0).values
        # Where the schedule does not divide evenly, the index at an edge belongs to two parts.
        assert (ascending + 1 > part * 1000 / strata).all()
        assert (ascending < (part + 1) * 1000 / strata).all()
        # The order is the sample's own: the first draw takes every part.
        assert ((index[0] * strata // 1000).bincount(minlength=strata) > 0).all()


def test_a_stratified_draw_alone_is_uniform_and_one_stratum_changes_nothing() -> None:
    ids = torch.arange(20_000)
    key = noise.Key(1, ids, 2)
    index = noise.draw_index(key, schedule(10), 5)
    counts = torch.bincount(index, minlength=10)
    assert ((counts - 2000).abs() < 5 * 1800**0.5).all()
    assert torch.equal(noise.draw_index(key, schedule(10), 1), noise.draw_index(key, schedule(10)))
    with pytest.raises(ValueError, match="strata must be at least 1"):
        noise.draw_index(key, schedule(10), 0)


def test_a_draw_does_not_depend_on_its_batch(caches: dict[Path, Path], sdxl: Path) -> None:
    family = models.load(sdxl, encoders=False)
    cache = LatentCache(caches[sdxl])
    ids = cache.sample_ids()
    bucket = cache.buckets(ids[:1])[0]
    same = [int(i) for i in ids if cache.buckets([i])[0] == bucket]
    drawer = Drawer(RULE, cache, family, torch.float32)
    rows = [i for i in same for _ in range(RULE.draws)]
    draws = torch.arange(RULE.draws).repeat(len(same))
    together = drawer.draw(drawer.read(rows, draws))
    for draw in range(RULE.draws):
        alone = drawer.draw(drawer.read(same, draw))
        mine = slice(draw, None, RULE.draws)
        assert torch.equal(alone.index, together.index[mine])
        assert torch.equal(alone.noisy, together.noisy[mine])
        assert torch.equal(alone.target, together.target[mine])
        for name, value in alone.conditions.items():
            assert torch.equal(value, together.conditions[name][mine])


def test_which_draw_an_epoch_takes() -> None:
    assert [RULE.draw_index(epoch) for epoch in range(6)] == [0, 1, 2, 3, 0, 1]
    fresh = DrawRule(seed=3, caption_dropout=0.0)
    assert [fresh.draw_index(epoch) for epoch in (0, 9)] == [0, 9] and fresh.strata == 1
    assert RULE.strata == 4
