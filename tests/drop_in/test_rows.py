"""Draws, aspect buckets and rows without a score, as docs/drop-in.md calls the loss for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.drop_in.miniature import assert_same, gradient, make_step, plain_loss, run, squares
from tglo import tgo_loss


@pytest.fixture
def space() -> dict[str, Any]:
    torch.manual_seed(8)
    return make_step(torch.randn(6, 4, 8, 8))


def test_buckets_add_up_to_the_mean_over_all_images() -> None:
    """Buckets of 5 images 8 x 8 and of 2 images 4 x 16; the mean of their means is another number."""
    torch.manual_seed(9)
    buckets = []
    for shape in ((5, 4, 8, 8), (2, 4, 4, 16)):
        names = make_step(torch.randn(shape))
        keys = "model_pred", "ref_preds", "target"
        buckets.append({name: names[name] for name in keys} | {"scores": torch.rand(shape[0])})
    space = {"torch": torch, "tgo_loss": tgo_loss, "threshold": SimpleNamespace(value=0.5)}
    loss = run("buckets", space | {"buckets": buckets})["loss"]

    def each(bucket: dict[str, Tensor], prediction: Tensor) -> Tensor:
        difference = squares(prediction, bucket["target"])
        other = squares(bucket["ref_preds"], bucket["target"])
        return plain_loss(difference - other, bucket["scores"])

    for changed, fixed in (buckets, buckets[::-1]):
        others = each(fixed, fixed["model_pred"]).sum().detach()
        assert_same(
            loss,
            changed["model_pred"],
            lambda p, changed=changed, others=others: (each(changed, p).sum() + others) / 7,
        )
    means = [each(bucket, bucket["model_pred"]).mean() for bucket in buckets]
    assert (torch.stack(means).mean() - loss).abs() > 0.01


@pytest.mark.parametrize("counts", [(3, 1), (0, 5)])
def test_all_processes_give_the_mean_over_their_scored_rows(
    counts: tuple[int, int], space: dict[str, Any]
) -> None:
    """Two processes with different numbers of scored rows: the average of their gradients is the joint one."""
    scores = [torch.where(torch.arange(6) < count, torch.rand(6), torch.nan) for count in counts]
    slopes, losses = [], []
    for mine, others in (scores, scores[::-1]):

        def reduce(count: Tensor, reduction: str, others: Tensor = others) -> Tensor:
            assert reduction == "sum"
            return count + (~others.isnan()).sum()

        accelerator = SimpleNamespace(reduce=reduce, num_processes=2)
        names = run("all-processes", space | {"scores": mine, "accelerator": accelerator})
        losses.append(names["loss"].detach())
        slopes.append(torch.autograd.grad(names["loss"], space["model_pred"], retain_graph=True)[0])

    joint = torch.cat(scores)
    scored = ~joint.isnan()
    p = space["model_pred"].detach().double().requires_grad_()
    difference = squares(p, space["target"]) - squares(space["ref_preds"], space["target"])
    expected = plain_loss(difference.repeat(2), joint.nan_to_num())[scored].mean()
    (slope,) = torch.autograd.grad(expected, p)
    torch.testing.assert_close(torch.stack(losses).mean().double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close((slopes[0] + slopes[1]).double() / 2, slope, rtol=1e-3, atol=1e-6)


def test_draws_with_scores_of_their_own_are_samples(space: dict[str, Any]) -> None:
    """3 images of 2 draws with 6 scores; with weights 1 / K the sum counts each image once."""
    scores = torch.rand(6)
    inputs = space["model_pred"], space["target"], scores, 0.5
    options = {"reference_pred": space["ref_preds"]}
    total = tgo_loss(*inputs, reduction="sum", sample_weight=1 / 2, **options)
    each = tgo_loss(*inputs, reduction="none", **options)
    torch.testing.assert_close(total, each.view(3, 2).mean(1).sum())
    gradient(space | {"loss": total})
