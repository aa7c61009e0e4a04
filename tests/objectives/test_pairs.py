"""Diffusion-DPO and DSPO are the losses of their papers and released code, written here in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.objectives.cases import BACKENDS, assert_is, gain, make_batch, mean_square
from tglo.objectives import OBJECTIVES, MicroBatch, Settings


def margin(p: Tensor, batch: MicroBatch, beta: float) -> Tensor:
    """-(beta / 2) [(e_theta - e_ref) of the winner - that of the loser], as released."""
    winner, loser = (-gain(p, batch)).chunk(2)
    return -0.5 * beta * (winner - loser)


def dpo(p: Tensor, batch: MicroBatch, beta: float) -> Tensor:
    return -torch.log(1 / (1 + torch.exp(-margin(p, batch, beta)))).mean()


def dspo(p: Tensor, batch: MicroBatch, beta: float) -> Tensor:
    """The element-wise square, with the gradient through the sigmoid."""
    half = len(p) // 2
    g = beta * (1 - torch.sigmoid(margin(p, batch, beta)))[:, None, None, None]
    y, q = batch.draw.target.double()[:half], batch.reference_pred.double()[:half]
    residual = (p[:half] - y) - g * (p[:half] - q)
    return (batch.timestep_weight[:half] * (residual**2).mean((1, 2, 3))).mean()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [40.0, 0.5, 0.001])
@pytest.mark.parametrize(("name", "formula"), [("dpo", dpo), ("dspo", dspo)])
def test_loss_and_gradient_are_the_formula(
    name: str, formula: object, beta: float, dtype: torch.dtype, backend: str
) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("kernels take up to float32")
    batch = make_batch(dtype=dtype)
    objective = OBJECTIVES[name](Settings(backend=backend))
    assert_is(objective, batch, lambda p, batch: formula(p, batch, beta), temperature=2 / beta)
    # beta and 1 / T are one number.
    objective = OBJECTIVES[name](Settings(beta=3.0, backend=backend))
    assert_is(objective, batch, lambda p, batch: formula(p, batch, beta), temperature=6 / beta)


def test_published_defaults() -> None:
    """Diffusion-DPO's released launchers have beta 5000 with a factor 0.5, DSPO's for SD1.5 0.001."""
    batch = make_batch()
    for name, beta in (("dpo", 5000.0), ("dspo", 0.001)):
        kind = OBJECTIVES[name]
        assert kind.default_temperature is not None and kind.default_beta == 1.0
        _, stats = kind()(batch, kind.default_temperature)
        expected = margin(batch.policy_pred.detach(), batch, beta)
        torch.testing.assert_close(stats.implicit_score[:3], expected, rtol=1e-5, atol=1e-7)


def test_statistics_are_those_of_pairs() -> None:
    batch = make_batch()
    for name in ("dpo", "dspo"):
        _, stats = OBJECTIVES[name]()(batch, 0.05)
        assert torch.equal(stats.implicit_score[:3], -stats.implicit_score[3:])
        assert stats.label.tolist() == [True] * 3 + [False] * 3
        assert not any(x.requires_grad for x in stats)
        error = mean_square(batch.policy_pred.detach(), batch.draw.target)
        torch.testing.assert_close(stats.policy_error, error)


def test_without_timestep_weights_and_at_the_reference() -> None:
    batch = dataclasses.replace(make_batch(), timestep_weight=1.0)
    same = dataclasses.replace(batch, reference_pred=batch.policy_pred.detach().clone())
    loss, stats = OBJECTIVES["dpo"]()(same, 1e-3)
    assert loss.item() == pytest.approx(0.6931472) and not stats.implicit_score.any()
    loss, _ = OBJECTIVES["dspo"]()(same, 1e-3)
    error = mean_square(batch.policy_pred.detach(), batch.draw.target)[:3].mean()
    assert loss.item() == pytest.approx(float(error), rel=1e-6)


def test_a_large_margin_stays_finite() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        batch = make_batch(dtype=dtype)
        loss, stats = OBJECTIVES["dpo"]()(batch, 1e-6)
        (gradient,) = torch.autograd.grad(loss, batch.policy_pred)
        assert (
            stats.implicit_score.abs().max() > 1e3 and loss.isfinite() and gradient.isfinite().all()
        )
