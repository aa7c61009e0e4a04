"""Masks by key: the schedule's share, the same in every batch, stratified where asked for."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from tglo import noise
from tglo.noise.masking import MaskSchedule, draw_mask

COSINE = MaskSchedule(99)


def test_the_number_of_hidden_tokens_follows_the_schedule() -> None:
    unit = torch.tensor([1e-9, 0.25, 0.5, 0.75, 1 - 1e-9], dtype=torch.float64)
    expected = [max(1, round(100 * math.cos(math.pi / 2 * float(u)))) for u in unit]
    assert COSINE.count(unit, 100).tolist() == expected
    assert MaskSchedule(99, "linear").count(unit, 100).tolist() == [100, 75, 50, 25, 1]


def test_masks_hide_as_many_in_random_places_of_their_own() -> None:
    ids = torch.arange(4000)
    key = noise.Key(5, ids, 3)
    masks = draw_mask(key, COSINE, (4, 6))
    assert masks.shape == (4000, 4, 6)
    assert torch.equal(masks.sum((1, 2)), COSINE.count(noise.draw_unit(key), 24))
    share = masks.double().mean()  # the cosine's mean is 2 / pi, and at least one is hidden
    assert abs(float(share) - 2 / math.pi) < 0.02
    assert ((masks.double().mean(0) - share).abs() < 0.04).all()
    assert not torch.equal(masks, draw_mask(noise.Key(5, ids, 4), COSINE, (4, 6)))
    assert not torch.equal(masks, draw_mask(noise.Key(6, ids, 3), COSINE, (4, 6)))


def test_a_mask_does_not_depend_on_its_batch() -> None:
    ids, draws = torch.tensor([7, 2**40, 7]), torch.tensor([0, 1, 1])
    together = draw_mask(noise.Key(1, ids, draws), COSINE, (5, 3), strata=4)
    for i in range(3):
        alone = draw_mask(noise.Key(1, ids[i : i + 1], int(draws[i])), COSINE, (5, 3), strata=4)
        assert torch.equal(alone[0], together[i])


def test_strata_spread_a_samples_draws() -> None:
    ids = torch.arange(50)
    counts = torch.stack(
        [draw_mask(noise.Key(1, ids, k), COSINE, (10, 10), strata=4).sum((1, 2)) for k in range(4)]
    )
    edges = [100 * math.cos(math.pi / 8 * k) for k in (4, 3, 2, 1, 0)]
    for row, low, high in zip(counts.sort(0).values, edges[:-1], edges[1:], strict=True):
        assert (row >= low - 0.5).all() and (row <= high + 0.5).all()


def test_the_schedule_of_a_scheduler_and_what_it_refuses() -> None:
    scheduler = diffusers.AmusedScheduler(mask_token_id=7, masking_schedule="linear")
    schedule = MaskSchedule.from_scheduler(scheduler)
    assert schedule == MaskSchedule(7, "linear") and schedule.fingerprint() == "linear 7"
    assert schedule.fingerprint() != MaskSchedule(7).fingerprint()
    assert schedule.to("cpu") is schedule
    assert schedule.timestep_weight(torch.tensor([3, 4])).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="min_snr' needs a signal-to-noise ratio.*use 'none'"):
        schedule.timestep_weight(torch.tensor([3]), "min_snr")
    with pytest.raises(ValueError, match="masking schedule 'square'; supported are cosine, linear"):
        MaskSchedule(7, "square")
