"""diffusion-pipe's loss function, and what docs/drop-in.md puts in its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.drop_in.miniature import assert_same, gradient, make_step, plain_loss, run, squares
from tglo import prediction_error, sft_loss


@pytest.fixture
def space() -> dict[str, Any]:
    """What the last stage gets: the output and the label, here before it is split into micro batches."""
    torch.manual_seed(7)
    names = make_step(torch.randn(4, 4, 8, 8))
    mask = (torch.rand(4, 1, 8, 8) > 0.3).half()
    error = prediction_error(names["ref_preds"], names["target"], mask, mask_mean="elements")
    label = names["target"], names["batch"]["scores"], error, mask
    return run("diffusion-pipe-after", names) | {"output": names["model_pred"], "label": label}


def before(output: Tensor, label: tuple[Tensor, Tensor]) -> Tensor:
    """get_loss_fn of models/base.py."""
    target, mask = label
    loss = functional.mse_loss(output, target, reduction="none")
    return (loss * mask.float() if mask.numel() > 0 else loss).mean()


def test_the_call_is_the_formula(space: dict[str, Any]) -> None:
    space["loss"] = space["loss_fn"](space["output"], space["label"])
    target, scores, error, mask = space["label"]

    def truth(prediction: Tensor) -> Tensor:
        square = (prediction - target.double()).square() * mask.double()
        return plain_loss(square.mean((1, 2, 3)) - error, scores).mean()

    assert_same(space["loss"], space["output"], truth)
    gradient(space)


def test_an_empty_mask_is_none(space: dict[str, Any]) -> None:
    target, scores, _, _ = space["label"]
    error = prediction_error(space["ref_preds"], target)
    space["loss"] = space["loss_fn"](space["output"], (target, scores, error, torch.tensor([])))
    difference = squares(space["output"], target) - squares(space["ref_preds"], target)
    expected = plain_loss(difference, scores).mean()
    torch.testing.assert_close(space["loss"].double(), expected, rtol=1e-4, atol=0)
    gradient(space)


def test_the_label_splits_into_micro_batches(space: dict[str, Any]) -> None:
    """Every entry of the label is split along the batch; equal micro batches average to the whole."""
    whole = space["loss_fn"](space["output"], space["label"])
    parts = zip(*(torch.split(part, 2) for part in (space["output"], *space["label"])), strict=True)
    losses = [space["loss_fn"](output, tuple(label)) for output, *label in parts]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)


def test_fine_tuning_on_all_is_its_loss(space: dict[str, Any]) -> None:
    target, _, _, mask = space["label"]
    inputs = space["output"], target, torch.ones(4), 0.5
    loss = sft_loss(*inputs, mask=mask, mask_mean="elements")
    there = before(space["output"], (target, mask))
    torch.testing.assert_close(loss, there)
    slopes = [
        torch.autograd.grad(value, space["output"], retain_graph=True)[0] for value in (loss, there)
    ]
    torch.testing.assert_close(*slopes)
