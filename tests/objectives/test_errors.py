"""Objectives over errors that are given, as masked models give them: the same formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tglo.objectives import OBJECTIVES, Given, Settings

T = 0.7


def given(policy: Tensor, reference: Tensor) -> Given:
    scores = torch.linspace(0, 1, len(policy), dtype=torch.float64)
    return Given(
        policy,
        None,
        scores=scores,
        threshold=torch.full_like(scores, 0.5),
        reference_error=reference,
        quantile=scores,
        timestep_weight=torch.ones_like(scores),
    )


def as_predictions(errors: Given) -> Given:
    """One element each, whose square is the error: the same batch for a continuous model."""
    assert errors.reference_error is not None
    policy = errors.policy_pred.detach().sqrt()[:, None].requires_grad_()
    return Given(
        policy,
        torch.zeros_like(policy),
        scores=errors.scores,
        threshold=errors.threshold,
        reference_pred=errors.reference_error.sqrt()[:, None],
        quantile=errors.quantile,
        timestep_weight=errors.timestep_weight,
    )


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"dspo"}))
def test_an_objective_of_errors_is_that_of_predictions(name: str) -> None:
    random = torch.Generator().manual_seed(1)
    policy = torch.rand(6, generator=random, dtype=torch.float64) + 1
    reference = torch.rand(6, generator=random, dtype=torch.float64) + 1
    batch = given(policy.requires_grad_(), reference)
    settings = Settings(confidence=2.0, backend="reference")
    loss, stats = OBJECTIVES[name](settings)(batch, T)
    square = as_predictions(batch)
    expected, other = OBJECTIVES[name](settings)(square, T)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(stats, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        assert not mine.requires_grad
    (slope,) = torch.autograd.grad(loss, policy)
    (other_slope,) = torch.autograd.grad(expected, square.policy_pred)
    chained = (other_slope / (2 * square.policy_pred))[:, 0]  # error = prediction^2
    torch.testing.assert_close(slope, chained, rtol=1e-9, atol=1e-12)


def test_equal_errors_have_a_log_ratio_of_exactly_zero() -> None:
    error = torch.rand(4, dtype=torch.float64).requires_grad_()
    _, stats = OBJECTIVES["tgo"]()(given(error, error.detach().clone()), 1e-3)
    assert (stats.implicit_score == 0).all()
