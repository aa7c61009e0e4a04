"""What is given per sample: weights in trainers' shapes, labels as scores, and rows without a score."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import Case, make_case, outcome, widened
from tglo import (
    TGOLoss,
    log_ratio,
    loss_and_grad,
    sft_loss,
    tgo_loss,
    tgo_loss_from_log_probs,
    tgo_token_loss,
)
from tglo.losses.log_ratio import log_ratio_of_errors

BACKENDS = ("auto", "reference")
SCORED = torch.tensor([True, False, True, True, False])


def half_scored(dtype: torch.dtype = torch.float32, **options: Any) -> Case:
    """Five samples of which two have no score, but NaN; draws=2."""
    case = make_case((10, 3, 4), dtype, draws=2, **options)
    return case._replace(scores=case.scores.masked_fill(~SCORED, torch.nan))


def only_scored(case: Case) -> Case:
    """The case without the rows that are not scored."""
    rows = SCORED.repeat_interleave(2)
    return case._replace(
        policy_pred=case.policy_pred.detach()[rows].requires_grad_(),
        target=case.target[rows],
        reference_pred=case.reference_pred[rows],
        scores=case.scores[SCORED],
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_rows_without_a_score_are_as_if_absent(
    backend: str, dtype: torch.dtype, reduction: str
) -> None:
    case = half_scored(dtype, reduction=reduction)
    found = outcome(case, tgo_loss, backend=backend, scored=SCORED)
    truth = outcome(widened(only_scored(case)), tgo_loss)
    torch.testing.assert_close(found.loss.double(), truth.loss, rtol=1e-5, atol=0)
    rows = SCORED.repeat_interleave(2)
    assert not found.gradient[~rows].any()
    eps = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.gradient[rows].double(), truth.gradient, rtol=eps, atol=1e-7)
    assert found.implicit_score.isfinite().all()  # of every row: r needs no score


@pytest.mark.parametrize("backend", BACKENDS)
def test_none_leaves_zeros_where_there_is_no_score(backend: str) -> None:
    case = half_scored(reduction="none")
    each, stats = case.call(tgo_loss, scored=SCORED, return_stats=True, backend=backend)
    expected = only_scored(case).call(tgo_loss, backend=backend)
    torch.testing.assert_close(each[SCORED], expected)
    assert each[~SCORED].tolist() == [0.0, 0.0]
    assert torch.equal(stats.label, SCORED & (case.scores >= 0.5))
    weight = 1 + 5 * (case.scores.double() - 0.5).abs()
    assert torch.equal(stats.weight, torch.where(SCORED, weight, 0.0))
    weighted = case.call(tgo_loss, scored=SCORED, sample_weight=0.5, return_stats=True)[1]
    assert torch.equal(weighted.weight, torch.where(SCORED, 0.5 * weight, 0.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_of_a_mean_show_the_weights_without_the_divisor(backend: str) -> None:
    case = half_scored()
    _, stats = case.call(tgo_loss, scored=SCORED, return_stats=True, backend=backend)
    weight = 1 + 5 * (case.scores.double() - 0.5).abs()
    assert torch.equal(stats.weight, torch.where(SCORED, weight, 0.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_launch_and_two_agree_with_both_weights(backend: str) -> None:
    case = half_scored()
    options = {"scored": SCORED, "sample_weight": torch.rand(5), "backend": backend}
    loss, gradient, stats = case.call(loss_and_grad, return_stats=True, **options)
    found = outcome(case, tgo_loss, **options)
    torch.testing.assert_close(loss, found.loss)
    torch.testing.assert_close(gradient, found.gradient)
    assert stats.label[~SCORED].tolist() == [False, False]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", [tgo_loss, sft_loss])
def test_a_batch_without_any_score_is_zero_with_a_graph(function: Any, backend: str) -> None:
    case = half_scored()
    scores = torch.full((5,), torch.nan)
    options: dict[str, Any] = (
        {} if function is sft_loss else {"reference_pred": case.reference_pred}
    )
    inputs = case.policy_pred, case.target, scores, 0.5
    nothing = torch.zeros(5, dtype=torch.bool)
    loss = function(*inputs, scored=nothing, draws=2, backend=backend, **options)
    loss.backward()
    assert loss.item() == 0.0
    assert case.policy_pred.grad is not None and not case.policy_pred.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_has_no_scores(backend: str) -> None:
    empty = torch.zeros(0, 3, requires_grad=True)
    scored = torch.zeros(0, dtype=torch.bool)
    options = {"reference_pred": torch.zeros(0, 3), "backend": backend}
    loss = tgo_loss(empty, torch.zeros(0, 3), torch.zeros(0), 0.5, scored=scored, **options)
    loss.backward()
    assert loss.item() == 0.0 and empty.grad is not None


def test_all_scored_changes_no_loss() -> None:
    case = make_case((4, 16), torch.float32)
    everything = torch.ones(4, dtype=torch.bool)
    assert torch.equal(case.call(tgo_loss, scored=everything), case.call(tgo_loss))


def test_the_module_takes_what_changes_from_call_to_call() -> None:
    case = half_scored()
    options = {"scored": SCORED, "sample_weight": 2.0, "draws": 2}
    inputs = case.policy_pred, case.target, case.scores
    loss = TGOLoss(0.5)(*inputs, reference_pred=case.reference_pred, **options)
    assert torch.equal(loss, case.call(tgo_loss, scored=SCORED, sample_weight=2.0))


def test_scored_compiles_into_one_graph() -> None:
    case = half_scored()

    def loss(policy: Tensor, scores: Tensor, scored: Tensor) -> Tensor:
        other = case.reference_pred
        return tgo_loss(
            policy, case.target, scores, 0.5, reference_pred=other, scored=scored, draws=2
        )  # type: ignore[no-any-return]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    arguments = case.policy_pred, case.scores, SCORED
    torch.testing.assert_close(compiled(*arguments), loss(*arguments))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", [tgo_loss, loss_and_grad])
def test_labels_are_scores_of_one_and_zero(function: Any, backend: str) -> None:
    case = make_case((4, 16), torch.float32)
    labels = torch.tensor([True, False, False, True])
    options = {"return_stats": True, "backend": backend}
    found = case._replace(scores=labels).call(function, **options)
    expected = case._replace(scores=labels.double()).call(function, **options)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[-1].label, labels)


def test_labels_as_scores_of_the_other_losses() -> None:
    labels, zero = torch.tensor([True, False]), torch.zeros(2)
    ratio = torch.tensor([0.3, -0.2])
    found = tgo_loss_from_log_probs(ratio, zero, labels, 0.5)
    assert found == tgo_loss_from_log_probs(ratio, zero, labels.float(), 0.5)
    assert sft_loss(ratio, zero, labels, 0.5) == pytest.approx(0.09)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ones", [(1,), (1, 1, 1)])
def test_weights_with_trailing_ones_are_flattened(ones: tuple[int, ...], backend: str) -> None:
    case = make_case((6, 3, 4, 5), torch.float32, draws=2)
    omega, weight = torch.rand(6), torch.rand(3)
    flat = outcome(case, tgo_loss, timestep_weight=omega, sample_weight=weight, backend=backend)
    shaped = omega.view(6, *ones), weight.view(3, *ones)
    options = dict(zip(("timestep_weight", "sample_weight"), shaped, strict=True))
    found = outcome(case, tgo_loss, backend=backend, **options)
    assert torch.equal(found.loss, flat.loss) and torch.equal(found.gradient, flat.gradient)
    inputs = case.policy_pred, case.target
    other = {"reference_pred": case.reference_pred, "draws": 2, "backend": backend}
    ratio = log_ratio(*inputs, timestep_weight=shaped[0], **other)
    assert torch.equal(ratio, log_ratio(*inputs, timestep_weight=omega, **other))
    errors = torch.rand(6), torch.rand(6)
    ratios = [log_ratio_of_errors(*errors, timestep_weight=w) for w in (shaped[0], omega)]
    assert torch.equal(ratios[0].log_ratio, ratios[1].log_ratio)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask_mean", ["mask", "elements"])
def test_fine_tuning_takes_masks_and_weights(mask_mean: Any, backend: str) -> None:
    case = make_case((6, 3, 4, 5), torch.float32, draws=2)
    mask = torch.rand(6, 1, 4, 5).round(decimals=1)
    hidden = case.target.masked_fill(mask == 0, torch.nan)
    omega, weight = torch.rand(6, 1, 1, 1), torch.tensor([0.5, 3.0, 1.0])
    scores, scored = torch.tensor([1.0, 0.6, torch.nan]), torch.tensor([True, True, False])
    inputs = case.policy_pred, hidden, scores, 0.5
    options = {"timestep_weight": omega, "sample_weight": weight, "scored": scored, "mask": mask}
    options |= {"mask_mean": mask_mean, "draws": 2, "backend": backend}
    loss, stats = sft_loss(*inputs, return_stats=True, **options)
    (slope,) = torch.autograd.grad(loss, case.policy_pred)

    p = case.policy_pred.detach().double().requires_grad_()
    m = mask.double().expand(p.shape)
    divisor = m.sum((1, 2, 3)) if mask_mean == "mask" else 60
    error = (m * (p - case.target.double()).square()).sum((1, 2, 3)) / divisor * omega.flatten()
    per_sample = error.view(3, 2).mean(1) * torch.tensor([0.5, 3.0, 0.0])
    truth = per_sample.sum() / 2
    (expected,) = torch.autograd.grad(truth, p)
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-9)
    assert stats.label.tolist() == [True, True, False]
    assert stats.weight.tolist() == [0.5, 3.0, 0.0]


def test_draws_of_log_probs_average_inside_the_sigmoid() -> None:
    policy = torch.randn(6, dtype=torch.float64, requires_grad=True)
    other = torch.randn(6, dtype=torch.float64)
    scores, scored = torch.tensor([0.9, torch.nan, 0.1]), torch.tensor([True, False, True])
    options = {"sample_weight": torch.tensor([2.0, 1.0, 0.5]), "scored": scored, "draws": 2}
    loss, stats = tgo_loss_from_log_probs(
        policy, other, scores, 0.5, beta=0.5, return_stats=True, **options
    )
    r = 0.5 * (policy - other).view(3, 2).mean(1)
    weight = torch.tensor([2.0, 0.5]) * (1 + 5 * 0.4)
    terms = torch.nn.functional.softplus(torch.stack([-r[0], r[2]])) * weight
    torch.testing.assert_close(loss, terms.mean(), rtol=1e-6, atol=0)  # scores are float32
    (slope,) = torch.autograd.grad(loss, policy, retain_graph=True)
    (expected,) = torch.autograd.grad(terms.mean(), policy)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(stats.implicit_score, r.detach())
    assert stats.policy_error.shape == (6,) and stats.label.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="5 rows do not divide .* policy_log_prob must have"):
        tgo_loss_from_log_probs(policy[:5], other[:5], scores, 0.5, draws=2)


def test_token_losses_take_both() -> None:
    hidden = torch.randn(3, 4, 5, requires_grad=True)
    weight, targets = torch.randn(7, 5), torch.randint(7, (3, 4))
    masked, error = torch.ones(3, 4, dtype=torch.bool), torch.ones(3, dtype=torch.float64)
    scores, scored = torch.tensor([0.9, torch.nan, 0.1]), torch.tensor([True, False, True])

    def loss(rows: Tensor, **options: Any) -> Tensor:
        inputs = hidden[rows], weight, targets[rows], masked[rows], scores[rows], 0.5
        return tgo_token_loss(*inputs, reference_error=error[rows], **options)  # type: ignore[no-any-return]

    mixed = loss(torch.arange(3), scored=scored, sample_weight=0.5)
    alone = loss(torch.tensor([0, 2])) / 2
    torch.testing.assert_close(mixed, alone)
    slopes = [torch.autograd.grad(value, hidden)[0] for value in (mixed, alone)]
    torch.testing.assert_close(*slopes)


def test_a_wrong_device_is_told_beside_the_functions_own_argument() -> None:
    away, log_prob = torch.device("meta"), torch.zeros(2)
    wrong: dict[str, Any] = {
        "scores": torch.zeros(2, device=away),
        "threshold": torch.zeros((), device=away),
        "sample_weight": torch.ones(2, device=away),
        "scored": torch.ones(2, dtype=torch.bool, device=away),
    }
    hidden, weight = torch.zeros(2, 3, 4), torch.zeros(5, 4)
    tokens = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    for name, value in wrong.items():
        given = {"scores": torch.zeros(2), "threshold": 0.5, name: value}
        with pytest.raises(ValueError, match=rf"{name}\.to\(policy_log_prob\.device\)"):
            tgo_loss_from_log_probs(log_prob, torch.ones(2), **given)
        with pytest.raises(ValueError, match=rf"{name}\.to\(hidden\.device\)"):
            tgo_token_loss(hidden, weight, *tokens, reference_error=torch.zeros(2), **given)
    with pytest.raises(ValueError, match=r"reference_log_prob\.to\(policy_log_prob\.device\)"):
        tgo_loss_from_log_probs(log_prob, wrong["scores"], torch.zeros(2), 0.5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", [tgo_loss, sft_loss])
@pytest.mark.parametrize(
    "options", [{"scored": torch.tensor([True, False])}, {"sample_weight": torch.tensor([1, 0])}]
)
def test_what_does_not_count_does_not_spoil_the_loss(
    function: Any, options: dict[str, Tensor], backend: str
) -> None:
    policy, target = torch.ones(2, 3), torch.zeros(2, 3)
    policy[1] = torch.nan
    if function is tgo_loss:
        options = options | {"reference_pred": torch.full((2, 3), 2.0)}
    loss = function(
        policy, target, torch.ones(2), 0.5, backend=backend, reduction="none", **options
    )
    assert loss[0].isfinite() and loss[1] == 0


def test_fine_tuning_is_not_spoiled_by_a_negative() -> None:
    policy = torch.tensor([[1.0], [torch.nan]])
    loss = sft_loss(policy, torch.zeros(2, 1), torch.tensor([1.0, 0.0]), 0.5)
    assert loss.item() == 1.0


@pytest.mark.parametrize("function", [tgo_loss, loss_and_grad])
def test_a_cached_error_with_a_gradient_is_refused(function: Any) -> None:
    error = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"reference_error requires a gradient, .*detach"):
        function(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2), 0.5, reference_error=error)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [None, 0.5, torch.tensor([1.0, 0.0, 2.0, 3.0, 0.5])])
def test_an_infinite_confidence_weighs_by_the_distance(
    backend: str, dtype: torch.dtype, weight: Tensor | float | None
) -> None:
    case = half_scored(dtype, reduction="sum")
    scores, threshold = case.scores, 0.25
    distance = (scores.double() - threshold).abs().nan_to_num()
    given = 1.0 if weight is None else weight
    arguments = case.policy_pred, case.target, scores, threshold
    options = {"reference_pred": case.reference_pred, "draws": 2, "scored": SCORED}
    options |= {"reduction": "none", "return_stats": True, "backend": backend}
    found, stats = tgo_loss(*arguments, confidence=float("inf"), sample_weight=weight, **options)
    expected, others = tgo_loss(
        *arguments, confidence=0.0, sample_weight=given * distance, **options
    )
    assert torch.equal(found, expected) and torch.equal(stats.weight, others.weight)
    assert torch.equal(stats.weight, given * distance * SCORED)
    module = TGOLoss(threshold, confidence=float("inf"), reduction="none", backend=backend)
    options = {k: options[k] for k in ("reference_pred", "draws", "scored")}
    assert torch.equal(module(*arguments[:3], sample_weight=weight, **options), found)


def test_an_infinite_confidence_is_the_limit_of_large_ones() -> None:
    case = make_case((6, 3, 4), torch.float64)
    arguments = case.policy_pred, case.target, case.scores, 0.1
    options = {"reference_pred": case.reference_pred, "temperature": 0.1}
    large = tgo_loss(*arguments, **options, confidence=1e12)
    endless = tgo_loss(*arguments, **options, confidence=float("inf"))
    assert large.item() / 1e12 == pytest.approx(endless.item(), rel=1e-10)
    with pytest.raises(
        ValueError, match="confidence is -inf; it must be a finite number of at least"
    ):
        tgo_loss(*arguments, **options, confidence=-float("inf"))
