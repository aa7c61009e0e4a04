"""Labels as one; and micro batches of errors, as masked models answer them: the same formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.objectives.cases import draw_of
from tglo.objectives import OBJECTIVES, Labels, MicroBatch, Settings
from tglo.objectives.micro_batch import ErrorMicroBatch

T = 0.7


def given(policy: Tensor, reference: Tensor) -> ErrorMicroBatch:
    scores = torch.linspace(0, 1, len(policy), dtype=torch.float64)
    return ErrorMicroBatch(
        Labels(scores, torch.full_like(scores, 0.5), scores),
        draw_of(torch.zeros(len(policy), 2, 2, dtype=torch.int64)),
        timestep_weight=torch.ones_like(scores),
        reference_error=reference,
        policy_pred=policy,
    )


def as_predictions(errors: MicroBatch) -> MicroBatch:
    """One element each, whose square is the error: the same batch for a continuous model."""
    assert errors.reference_error is not None
    policy = errors.policy_pred.detach().sqrt()[:, None].requires_grad_()
    return MicroBatch(
        errors.labels,
        draw_of(torch.zeros_like(policy)),
        timestep_weight=errors.timestep_weight,
        policy_pred=policy,
        reference_pred=errors.reference_error.sqrt()[:, None],
    )


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"dspo", "sdpo"}))
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


def test_an_answer_of_the_reference_stands_for_its_cached_error() -> None:
    error = torch.rand(4, dtype=torch.float64)
    batch = given(error.clone().requires_grad_(), error)
    asked = dataclasses.replace(batch, reference_error=None).answered(batch.policy_pred, error)
    for name in ("tgo", "kto"):
        expected, found = (OBJECTIVES[name]()(b, T)[0] for b in (batch, asked))
        assert torch.equal(found, expected)


def test_labels_are_indexed_and_moved_as_one() -> None:
    scores = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    labels = Labels(scores, torch.full_like(scores, 0.5), scores / 2)
    assert labels.positive.tolist() == [False, True, True]  # a tie is positive
    assert labels.sign.tolist() == [-1.0, 1.0, 1.0] and labels.sign.dtype == torch.float64
    chosen = labels[torch.tensor([2, 0])].to("cpu", non_blocking=True)
    assert len(chosen) == 2 and torch.equal(chosen.scores, scores[[2, 0]])
    assert torch.equal(chosen.quantiles, scores[[2, 0]] / 2)
    assert labels.to("meta").thresholds.device.type == "meta"


def test_weights_of_the_labels_take_the_place_of_the_confidences() -> None:
    policy = torch.linspace(1, 2, 6, dtype=torch.float64).requires_grad_()
    batch = given(policy, torch.full((6,), 1.4, dtype=torch.float64))
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)
    labels = dataclasses.replace(batch.labels, weights=weights)
    for plain in (batch, as_predictions(batch)):
        objective = OBJECTIVES["tgo"](Settings(confidence=0.0, backend="reference"))
        loss, stats = OBJECTIVES["tgo"](Settings(confidence=7.0, backend="reference"))(
            dataclasses.replace(plain, labels=labels), T
        )
        assert torch.equal(stats.weight, weights)
        sign = plain.labels.sign
        per_sample = torch.nn.functional.softplus(-sign * stats.implicit_score)
        torch.testing.assert_close(loss, (weights * per_sample).mean(), rtol=1e-12, atol=0)
        assert objective(plain, T)[0] != loss


def test_labels_carry_their_weights_along() -> None:
    scores = torch.arange(4, dtype=torch.float64)
    labels = Labels(scores, scores, scores, 10 * scores)
    assert labels[torch.tensor([2, 1])].weights.tolist() == [20, 10]
    assert labels.to("cpu").weights is not None
    assert Labels(scores, scores, scores)[[0]].weights is None
