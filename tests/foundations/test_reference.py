"""tglo/reference/ against formulas written down a second time, and against the limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import make_case
from tglo import reference

DOUBLE = torch.float64


def by_hand(p: Tensor, q: Tensor, y: Tensor, scores: Tensor, tau: float, **o: float) -> Tensor:
    """w log(1 + exp(-z beta ell)) with ell = -(omega / T)(mse(p) - mse(q)), one draw, in a loop."""
    losses = []
    for i in range(len(p)):
        ell = -(o["omega"] / o["temperature"]) * (
            ((p[i] - y[i]) ** 2).mean() - ((q[i] - y[i]) ** 2).mean()
        )
        z = 1.0 if scores[i] >= tau else -1.0
        weight = 1.0 + o["confidence"] * abs(float(scores[i]) - tau)
        losses.append(weight * torch.log1p(torch.exp(-z * o["beta"] * ell)))
    return torch.stack(losses)


@pytest.fixture
def numbers() -> dict[str, Tensor]:
    case = make_case((5, 3, 4), DOUBLE, seed=3)
    return {
        "p": case.policy_pred.detach(),
        "q": case.reference_pred,
        "y": case.target,
        "s": case.scores.double(),
    }


def test_loss_and_gradient_equal_an_independent_derivation(numbers: dict[str, Tensor]) -> None:
    p, q, y, s = numbers.values()
    o = {"omega": 0.7, "temperature": 2e-3, "beta": 1.3, "confidence": 4.0}
    left, right = p.clone().requires_grad_(), p.clone().requires_grad_()
    expected = by_hand(left, q, y, s, 0.4, **o)
    result = reference.tgo_loss(
        right,
        y,
        s,
        0.4,
        reference_pred=q,
        beta=o["beta"],
        temperature=o["temperature"],
        confidence=o["confidence"],
        timestep_weight=o["omega"],
    )
    torch.testing.assert_close(result.loss, expected, rtol=1e-12, atol=1e-12)
    outer = torch.linspace(-1, 2, 5, dtype=DOUBLE)
    expected.backward(outer)
    result.loss.backward(outer)
    torch.testing.assert_close(right.grad, left.grad, rtol=1e-10, atol=1e-14)

    coefficient = reference.prediction_coefficient(
        result.implicit_score.detach(),
        s,
        0.4,
        12,
        beta=o["beta"],
        temperature=o["temperature"],
        confidence=o["confidence"],
        timestep_weight=o["omega"],
    )
    closed = (outer * coefficient).view(5, 1, 1) * (p - y)
    torch.testing.assert_close(closed, left.grad, rtol=1e-10, atol=1e-14)


def test_cached_error_gives_what_the_prediction_gives(numbers: dict[str, Tensor]) -> None:
    p, q, y, s = numbers.values()
    with_prediction = reference.tgo_loss(p, y, s, 0.5, reference_pred=q)
    error = reference.prediction_error(q, y)
    with_error = reference.tgo_loss(p, y, s, 0.5, reference_error=error)
    torch.testing.assert_close(with_error.loss, with_prediction.loss, rtol=1e-9, atol=1e-12)
    assert torch.equal(with_error.reference_error, with_prediction.reference_error)


def test_draws_average_inside_the_sigmoid(numbers: dict[str, Tensor]) -> None:
    difference = torch.tensor([1.0, 3.0, -2.0, 0.0], dtype=DOUBLE)
    weight = torch.tensor([1.0, 2.0, 1.0, 5.0], dtype=DOUBLE)
    ell = reference.log_ratio(difference, temperature=0.5, timestep_weight=weight, draws=2)
    assert ell.tolist() == [-(2.0 + 12.0) / 2, 4.0 / 2]


def test_equal_predictions_give_zero_and_the_exact_gradient(numbers: dict[str, Tensor]) -> None:
    p, _, y, s = numbers.values()
    policy = p.clone().requires_grad_()
    result = reference.tgo_loss(policy, y, s, 0.5, reference_pred=p)
    assert torch.equal(result.implicit_score.detach(), torch.zeros(5, dtype=DOUBLE))
    weight = 1 + 5 * (s - 0.5).abs()
    torch.testing.assert_close(result.loss.detach(), weight * math.log(2), rtol=1e-14, atol=0)
    result.loss.sum().backward()
    sign = torch.where(s >= 0.5, 1.0, -1.0)
    expected = (weight * sign * 0.5 / 1e-3 * 2 / 12).view(5, 1, 1) * (p - y)
    torch.testing.assert_close(policy.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("r", [-1e4, -40.0, -1e-9, 0.0, 17.4, 40.0, 1e4])
def test_loss_is_finite_and_precise_in_both_tails(r: float) -> None:
    scores = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    ratio = torch.tensor([r, r], dtype=DOUBLE, requires_grad=True)
    loss = reference.loss_from_log_ratio(ratio, scores, 0.5, confidence=0.0)
    loss.sum().backward()
    for value, slope, argument, sign in zip(
        loss.tolist(), ratio.grad.tolist(), (-r, r), (1, -1), strict=True
    ):
        expected = max(argument, 0.0) + math.log1p(math.exp(-abs(argument)))
        assert value == pytest.approx(expected, rel=1e-14)
        tail = math.exp(-abs(argument))
        probability = (1.0 if argument >= 0 else tail) / (1.0 + tail)
        assert slope == pytest.approx(-sign * probability, rel=1e-12)
    closed = reference.loss_slope(ratio.detach(), scores, 0.5, confidence=0.0)
    torch.testing.assert_close(closed, ratio.grad, rtol=1e-12, atol=0)


def test_a_tie_is_positive_and_weighs_one() -> None:
    scores = torch.tensor([0.5, 0.25], dtype=DOUBLE)
    assert reference.label(scores, 0.5).tolist() == [True, False]
    assert reference.confidence_weight(scores, 0.5, 4.0).tolist() == [1.0, 2.0]


def test_token_error_is_minus_the_mean_over_masked_positions() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7, dtype=DOUBLE)
    tokens = torch.randint(7, (2, 4))
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0]]).bool()
    value = -reference.token_error(reference.picked_log_prob(logits, tokens), mask)
    probabilities = logits[0].exp() / logits[0].exp().sum(-1, keepdim=True)
    expected = sum(math.log(probabilities[i, tokens[0, i]]) for i in (0, 2, 3)) / 3
    assert value[0].item() == pytest.approx(expected, rel=1e-12)
    assert value[1].item() == 0.0


def test_factored_difference_keeps_what_two_means_lose() -> None:
    case = make_case((4, 65536), torch.bfloat16, distance=0.02)
    p, q, y = case.policy_pred.detach(), case.reference_pred, case.target
    truth = reference.error_difference(p.double(), q.double(), y.double()) / 1e-3
    factored = reference.error_difference(p, q, y) / 1e-3
    two_means = ((p - y).pow(2).mean(1) - (q - y).pow(2).mean(1)).double() / 1e-3
    assert (factored - truth).abs().max() < 1e-6
    assert (two_means - truth).abs().max() > 1e-2
