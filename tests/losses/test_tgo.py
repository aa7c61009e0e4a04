"""The public losses: dtypes, reductions, statistics, module, log-probabilities, SFT."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tglo
from tests.ops.loss_cases import HALF_AND_SINGLE, make_case, outcome
from tglo import TGOLoss, TGOStats, prediction_error, reference, sft_loss, tgo_loss


def test_statistics_are_detached_and_shaped() -> None:
    case = make_case((6, 2, 5), torch.bfloat16, draws=3)
    loss, stats = case.call(tgo_loss, return_stats=True)
    assert isinstance(stats, TGOStats) and loss.shape == ()
    assert [t.shape for t in stats] == [(2,), (6,), (6,), (2,), (2,)]
    assert not any(t.requires_grad for t in stats)
    assert stats.label.dtype == torch.bool
    assert torch.equal(stats.label, case.scores >= 0.5)
    torch.testing.assert_close(stats.weight, 1 + 5 * (case.scores.double() - 0.5).abs())


def test_unknown_keywords_are_named() -> None:
    case = make_case((2, 3), torch.float32)
    arguments = case.policy_pred, case.target, case.scores, 0.5
    for loss in (tgo_loss, tglo.loss_and_grad, sft_loss, TGOLoss()):
        with pytest.raises(TypeError, match="unexpected keyword argument 'bta'"):
            loss(*arguments, bta=1.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        tglo.log_ratio(*arguments[:2], beta=1.0)
    with pytest.raises(TypeError, match="'temprature'; options are .*temperature, .*confidence"):
        tgo_loss(*arguments, temprature=1.0)
    with pytest.raises(TypeError, match="beta is the module's own"):
        TGOLoss()(*arguments, beta=1.0)


def test_reductions_agree() -> None:
    case = make_case((5, 8), torch.float32)
    each = case.call(tgo_loss, reduction="none")
    assert each.shape == (5,)
    torch.testing.assert_close(case.call(tgo_loss, reduction="sum"), each.sum())
    torch.testing.assert_close(case.call(tgo_loss), each.mean())


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_backends_agree(dtype: torch.dtype) -> None:
    case = make_case((4, 3, 9), dtype)
    plain = outcome(case, tgo_loss, backend="reference")
    chosen = outcome(case, tgo_loss)
    for name in ("loss", "implicit_score", "policy_error", "reference_error"):
        a, b = getattr(plain, name), getattr(chosen, name)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_float64_stays_float64() -> None:
    case = make_case((4, 3), torch.float64)
    loss = case.call(tgo_loss)
    assert loss.dtype == torch.float64
    truth = reference.tgo_loss(
        case.policy_pred, case.target, case.scores, 0.5, reference_pred=case.reference_pred
    )
    assert torch.equal(loss, truth.loss.mean())


def test_mixed_dtypes_are_promoted() -> None:
    case = make_case((4, 33), torch.float32)
    half = case._replace(
        policy_pred=case.policy_pred.detach().bfloat16().requires_grad_(),
        target=case.target,
        reference_pred=case.reference_pred.half(),
    )
    promoted = half._replace(
        policy_pred=half.policy_pred.detach().float().requires_grad_(),
        reference_pred=half.reference_pred.float(),
    )
    mixed, plain = outcome(half, tgo_loss), outcome(promoted, tgo_loss)
    assert torch.equal(mixed.loss, plain.loss)
    assert mixed.gradient.dtype == torch.bfloat16
    assert torch.equal(mixed.gradient, plain.gradient.bfloat16())


def test_scores_of_any_real_dtype_and_scale() -> None:
    """Stars, and scores times 1e8 or plus 1e6: the labels stay, statistics are float64."""
    case = make_case((4, 6), torch.float32)
    stars = case._replace(scores=torch.tensor([1, 3, 4, 5]), threshold=3)
    _, stats = stars.call(tgo_loss, return_stats=True)
    assert stats.label.tolist() == [False, True, True, True]
    assert stats.weight.tolist() == [11.0, 1.0, 6.0, 11.0]
    scores = torch.tensor([0.1, 0.5, 0.50001, 0.9], dtype=torch.float64)
    for factor, offset in ((1e8, 0.0), (1.0, 1e6)):
        moved = case._replace(scores=scores * factor + offset, threshold=0.5 * factor + offset)
        _, stats = moved.call(tgo_loss, return_stats=True)
        assert stats.label.tolist() == [False, True, True, True]
        expected = 1 + 5 * factor * (scores - 0.5).abs()
        torch.testing.assert_close(stats.weight, expected, rtol=1e-6, atol=1e-8)


def test_one_dimensional_predictions() -> None:
    case = make_case((4,), torch.float32)
    loss = case.call(tgo_loss, backend="reference")
    torch.testing.assert_close(case.call(tgo_loss), loss)


def test_timestep_weight_as_number_or_tensor() -> None:
    case = make_case((4, 6), torch.float32)
    as_number = case.call(tgo_loss, timestep_weight=0.25)
    as_tensor = case.call(tgo_loss, timestep_weight=torch.full((4,), 0.25))
    assert torch.equal(as_number, as_tensor)
    assert torch.equal(case.call(tgo_loss, timestep_weight=None), case.call(tgo_loss))


def test_module_is_the_function() -> None:
    case = make_case((4, 6), torch.float32)
    module = TGOLoss(0.5, beta=0.7, temperature=2e-3, confidence=2.0, reduction="none")
    options = {"beta": 0.7, "temperature": 2e-3, "confidence": 2.0, "reduction": "none"}
    expected = case.call(tgo_loss, **options)
    inputs = case.policy_pred, case.target, case.scores
    assert torch.equal(module(*inputs, reference_pred=case.reference_pred), expected)
    assert torch.equal(module(*inputs, 0.5, reference_pred=case.reference_pred), expected)
    assert list(module.parameters()) == [] and "beta=0.7" in repr(module)
    with pytest.raises(ValueError, match="threshold is None"):
        TGOLoss()(*inputs, reference_pred=case.reference_pred)
    with pytest.raises(ValueError, match="temperature is 0"):
        TGOLoss(temperature=0)
    with pytest.raises(ValueError, match="backend is 'fast'"):
        TGOLoss(backend="fast")


def test_gradient_checkpoint_of_a_small_training_run() -> None:
    """The log-ratio of positives rises and that of negatives falls."""
    torch.manual_seed(0)
    target = torch.randn(8, 16)
    policy = torch.zeros(8, 16, requires_grad=True)
    scores = torch.tensor([0.0, 1.0] * 4)
    start = policy.detach().clone()
    optimizer = torch.optim.SGD([policy], lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        loss, stats = tgo_loss(
            policy,
            target,
            scores,
            0.5,
            reference_pred=start,
            temperature=0.1,
            return_stats=True,
        )
        loss.backward()
        optimizer.step()
    assert (stats.implicit_score[scores == 1] > 0.05).all()
    assert (stats.implicit_score[scores == 0] < -0.05).all()


def test_log_probs_have_the_papers_signature() -> None:
    policy = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    other = torch.tensor([-1.5, -2.0, -1.0])
    scores = torch.tensor([1.0, 0.0, 0.0])
    loss, stats = tglo.tgo_loss_from_log_probs(
        policy, other, scores, 0.5, beta=2.0, confidence=4.0, return_stats=True
    )
    expected = [3 * math.log1p(math.exp(-z * r)) for z, r in ((1, 1.0), (-1, 0.0), (-1, -4.0))]
    assert loss.item() == pytest.approx(sum(expected) / 3, rel=1e-6)
    assert stats.implicit_score.tolist() == [1.0, 0.0, -4.0]
    loss.backward()
    slope = [-3 * z / (1 + math.exp(z * r)) for z, r in ((1, 1.0), (-1, 0.0), (-1, -4.0))]
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([2 * s / 3 for s in slope], rel=1e-6)


def test_log_probs_stay_finite_where_the_papers_pseudocode_does_not() -> None:
    policy = torch.tensor([0.0, 0.0], requires_grad=True)
    loss = tglo.tgo_loss_from_log_probs(
        policy, torch.tensor([-1e4, 1e4]), torch.tensor([0.0, 1.0]), 0.5, confidence=0.0
    )
    loss.backward()
    assert loss.item() == 1e4
    assert policy.grad is not None and policy.grad.tolist() == [0.5, -0.5]


def test_sft_is_the_error_of_the_positives() -> None:
    case = make_case((6, 5), torch.float32, draws=2)
    case = case._replace(scores=torch.tensor([1.0, 0.0, 0.6]))
    args = case.policy_pred, case.target, case.scores, 0.5
    weight = torch.linspace(0.5, 2, 6)
    loss, stats = sft_loss(*args, draws=2, timestep_weight=weight, return_stats=True)
    error = (case.policy_pred - case.target).square().mean(1) * weight
    expected = error[[0, 1, 4, 5]].mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert case.policy_pred.grad is not None
    assert case.policy_pred.grad[2:4].abs().max() == 0
    assert stats.label.tolist() == [True, False, True]
    none = sft_loss(*args, draws=2, timestep_weight=weight, reduction="none")
    torch.testing.assert_close(none, error.view(3, 2).mean(1) * torch.tensor([1.0, 0.0, 1.0]))


def test_sft_without_positives_is_zero_with_a_graph() -> None:
    case = make_case((3, 5), torch.float32)
    loss = sft_loss(case.policy_pred, case.target, case.scores, 2.0)
    loss.backward()
    assert loss.item() == 0.0
    assert case.policy_pred.grad is not None and case.policy_pred.grad.abs().max() == 0


def test_prediction_error_has_no_graph() -> None:
    case = make_case((3, 5), torch.float32)
    error = prediction_error(case.policy_pred, case.target)
    assert error.dtype == torch.float64 and not error.requires_grad
    expected = (case.policy_pred.double() - case.target.double()).square().mean(1)
    torch.testing.assert_close(error, expected.detach(), rtol=1e-6, atol=0)


def test_works_under_autocast() -> None:
    case = make_case((4, 16), torch.float32)
    for backend in ("auto", "reference"):
        plain = case.call(tgo_loss, backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside: Tensor = case.call(tgo_loss, backend=backend)
        assert torch.equal(plain, inside)
