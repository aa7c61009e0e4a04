"""Bad input to the losses: faults 12 to 18 (13 is in test_loss_dtypes.py), and every argument that can be wrong."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch

from tests.faults.loss_calls import plain, wrong
from tests.ops.loss_cases import HALF_AND_SINGLE, make_case, outcome, widened
from tglo import (
    TGOLoss,
    log_ratio,
    loss_and_grad,
    policy_error,
    prediction_error,
    sft_loss,
    tgo_loss,
    tgo_loss_from_log_probs,
)

BACKENDS = ("auto", "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["strided", "channels_last", "transposed", "expanded"])
def test_12_layouts_give_the_contiguous_result(layout: str, backend: str) -> None:
    case = make_case((4, 3, 5, 6), torch.float32)
    target = case.target[:1].expand(4, 3, 5, 6) if layout == "expanded" else case.target

    def laid_out(tensor: torch.Tensor) -> torch.Tensor:
        if layout == "strided":
            return torch.stack([tensor, tensor.new_full(tensor.shape, torch.nan)], -1)[..., 0]
        if layout == "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        if layout == "transposed":
            return tensor.transpose(0, 3).contiguous().transpose(0, 3)
        return tensor

    expected = outcome(case._replace(target=target.contiguous()), tgo_loss, backend=backend)
    changed = case._replace(
        policy_pred=laid_out(case.policy_pred.detach()).requires_grad_(),
        target=laid_out(target),
        reference_pred=laid_out(case.reference_pred),
    )
    result = outcome(changed, tgo_loss, backend=backend)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(result.gradient, expected.gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["strided", "channels_last"])
def test_12_layouts_of_the_other_functions(layout: str, backend: str) -> None:
    case = make_case((4, 3, 5, 6), torch.float32)
    mask = torch.rand(4, 1, 5, 6) + 0.1

    def laid_out(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        if layout == "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        return torch.stack([tensor, tensor.new_full(tensor.shape, torch.nan)], -1)[..., 0]

    def results(policy: Any, target: Any, other: Any, vector: Any) -> list[torch.Tensor]:
        """vector: how scores, cached errors and weights lie in memory."""
        scores, weight = vector(case.scores), vector(torch.rand(4) * 0 + 0.5)
        options = {"backend": backend, "timestep_weight": weight}
        error = prediction_error(other, target, mask, backend=backend)
        _, gradient = loss_and_grad(
            policy, target, scores, scores, reference_error=vector(error), mask=mask, **options
        )
        return [
            error,
            gradient,
            log_ratio(policy, target, reference_pred=other, mask=mask, **options),
            policy_error(policy, target, mask, backend=backend),
            sft_loss(policy, target, scores, 0.2, **options),
        ]

    plain = case.policy_pred.detach(), case.target, case.reference_pred
    expected = results(*plain, lambda vector: vector)
    found = results(
        *map(laid_out, plain), lambda vector: torch.stack([vector, vector * torch.nan], -1)[:, 0]
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_14_batch_of_zero(dtype: torch.dtype, cached: bool, backend: str) -> None:
    case = make_case((0, 3, 5), dtype)
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (0,))):
        case.policy_pred.grad = None
        loss = case.call(tgo_loss, reduction=reduction, cached=cached, backend=backend)
        assert loss.shape == shape and loss.sum().item() == 0.0
        loss.sum().backward()
        assert case.policy_pred.grad is not None and case.policy_pred.grad.shape == (0, 3, 5)
    assert prediction_error(case.policy_pred, case.target).shape == (0,)
    assert sft_loss(case.policy_pred, case.target, case.scores, 0.5).item() == 0.0
    _, gradient = case.call(loss_and_grad, cached=cached, backend=backend)
    assert gradient.shape == (0, 3, 5) and gradient.dtype == dtype
    options = {"reference_pred": case.reference_pred, "backend": backend}
    ratio = log_ratio(case.policy_pred, case.target, **options)
    ratio.sum().backward()
    assert ratio.shape == (0,)
    log_prob = torch.zeros(0, requires_grad=True)
    loss = tgo_loss_from_log_probs(log_prob, torch.zeros(0), case.scores, 0.5)
    loss.backward()
    assert loss == 0 and log_prob.grad is not None


@pytest.mark.parametrize("name", ["target", "reference_pred", "reference_error", "scores"])
def test_16_devices_that_differ_are_both_named(name: str) -> None:
    case = plain()
    elsewhere: dict[str, Any] = {"reference_pred": case.reference_pred}
    policy, target, scores = case.policy_pred, case.target, case.scores
    if name == "reference_error":
        elsewhere = {name: torch.zeros(4, device="meta")}
    elif name == "reference_pred":
        elsewhere = {name: case.reference_pred.to("meta")}
    elif name == "target":
        target = target.to("meta")
    else:
        scores = scores.to("meta")
    with pytest.raises(ValueError, match=f"{name} is on meta but policy_pred is on cpu; move it"):
        tgo_loss(policy, target, scores, 0.5, **elsewhere)


def test_16_a_mask_a_scale_and_log_probs_elsewhere() -> None:
    case = plain()
    with pytest.raises(ValueError, match="mask is on meta but policy_pred is on cpu; move it"):
        case.call(tgo_loss, mask=torch.ones(4, 1, 1, device="meta"))
    with pytest.raises(ValueError, match="loss_scale is on meta but policy_pred is on cpu"):
        case.call(loss_and_grad, loss_scale=torch.ones((), device="meta"))
    with pytest.raises(ValueError, match="reference_log_prob is on meta but"):
        tgo_loss_from_log_probs(torch.zeros(4), torch.zeros(4, device="meta"), torch.zeros(4), 0.5)


@pytest.mark.parametrize("name", ["threshold", "timestep_weight"])
def test_16_devices_of_optional_tensors(name: str) -> None:
    case, other = plain(), torch.zeros(4, device="meta")
    changed = case._replace(threshold=other) if name == "threshold" else case  # type: ignore[arg-type]
    options = {} if name == "threshold" else {name: other}
    with pytest.raises(ValueError, match=f"{name} is on meta but policy_pred is on cpu"):
        changed.call(tgo_loss, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_17_policy_as_its_own_reference(backend: str) -> None:
    case = plain()
    with pytest.raises(ValueError, match="the very tensor passed as policy_pred"):
        case._replace(reference_pred=case.policy_pred).call(tgo_loss, backend=backend)
    equal = case._replace(reference_pred=case.policy_pred.detach().clone())
    result = outcome(equal, tgo_loss, backend=backend)
    assert result.implicit_score.tolist() == [0.0] * 4
    truth = outcome(widened(equal), tgo_loss)
    torch.testing.assert_close(result.gradient.double(), truth.gradient, rtol=1e-6, atol=0)
    torch.testing.assert_close(result.loss.double(), truth.loss, rtol=1e-7, atol=0)
    detached = case._replace(reference_pred=case.policy_pred.detach())
    with pytest.raises(ValueError, match="in the same memory as policy_pred"):
        detached.call(tgo_loss, backend=backend)
    log_prob = torch.zeros(3, requires_grad=True)
    for other, message in ((log_prob, "the very tensor"), (log_prob.detach(), "same memory")):
        with pytest.raises(ValueError, match=message):
            tgo_loss_from_log_probs(log_prob, other, torch.zeros(3), 0.5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_18_saturated_sigmoid(dtype: torch.dtype, backend: str) -> None:
    """r of both signs and about 1e4 in size, on positives and on negatives."""
    case = make_case((4, 64), dtype)
    error = prediction_error(case.policy_pred, case.target)
    shift = torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=torch.float64) * 1e-3
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0])

    def run(policy: torch.Tensor, target: torch.Tensor, name: str) -> tuple[torch.Tensor, Any]:
        policy = policy.detach().requires_grad_()
        loss, stats = tgo_loss(
            policy,
            target,
            scores,
            0.5,
            reference_error=error + shift,
            reduction="none",
            return_stats=True,
            backend=name,
        )
        (gradient,) = torch.autograd.grad(loss.sum(), policy)
        return loss, (stats.implicit_score, gradient)

    loss, (ratio, gradient) = run(case.policy_pred, case.target, backend)
    truth, (_, slope) = run(case.policy_pred.double(), case.target.double(), "reference")
    assert ratio.abs().min() > 9e3
    assert loss.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
    unit = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), slope, rtol=unit, atol=1e-30)
    assert gradient[0].abs().max() == 0 and gradient[3].abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_18_saturated_in_one_launch_and_from_log_probs(dtype: torch.dtype, backend: str) -> None:
    case = make_case((4, 64), dtype)
    shift = torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=torch.float64)
    scores = torch.tensor([1.0, 0.0, 1.0, 0.0])
    error = prediction_error(case.policy_pred, case.target) + 1e-3 * shift
    arguments = case.policy_pred.detach(), case.target, scores, 0.5
    options = {"reference_error": error, "reduction": "sum", "backend": backend}
    loss, gradient = loss_and_grad(*arguments, **options)
    apart, slope = tgo_loss(case.policy_pred, *arguments[1:], **options), None
    (slope,) = torch.autograd.grad(apart, case.policy_pred)
    assert loss.isfinite() and torch.equal(loss, apart)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient, slope, rtol=2 * torch.finfo(dtype).eps, atol=1e-30)

    log_prob = torch.zeros(4, dtype=dtype, requires_grad=True)
    total = tgo_loss_from_log_probs(log_prob, -shift, scores, 0.5, reduction="sum")
    total.backward()
    assert total == 7e4 and log_prob.grad is not None  # (1 + 5 * 0.5) * 1e4, twice
    assert log_prob.grad.tolist() == [0.0, 3.5, -3.5, 0.0]


SHAPES = {
    "target": (torch.zeros(4, 3, 4), r"target has shape \(4, 3, 4\) but policy_pred has \(4, 3, 5"),
    "reference_pred": (torch.zeros(4, 3, 1), r"reference_pred has shape \(4, 3, 1\) but"),
    "scores": (torch.zeros(3), r"scores has shape \(3,\); it must be \(4,\): one number per"),
    "threshold": (torch.zeros(2), r"threshold has shape \(2,\); it must be \(4,\)"),
    "timestep_weight": (
        torch.zeros(2, 2),
        r"timestep_weight has shape \(2, 2\); it must be \(4,\): .*; timestep_weight.flatten\(\) is",
    ),
    "sample_weight": (
        torch.ones(4, 3, 5),
        r"sample_weight has shape \(4, 3, 5\); it must be \(4,\): one number per sample; weights of "
        "single elements are a mask, with mask_mean='elements'",
    ),
    "scored": (
        torch.ones(4, 1, dtype=torch.bool),
        r"scored has shape \(4, 1\); it must be \(4,\): one bool per sample",
    ),
    "policy_pred": (torch.tensor(1.0), "policy_pred is 0-dimensional"),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_shapes(name: str) -> None:
    value, message = SHAPES[name]
    with pytest.raises(ValueError, match=message):
        wrong(plain(), **{name: value})


def test_rows_without_elements() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 0, 5\): its rows are empty"):
        make_case((4, 0, 5), torch.float32).call(tgo_loss)


def test_both_or_neither_reference() -> None:
    case = plain()
    with pytest.raises(ValueError, match="both of reference_pred and reference_error"):
        wrong(case, reference_error=torch.zeros(4))
    with pytest.raises(ValueError, match="neither of reference_pred and reference_error"):
        wrong(case, reference_pred=None)
    with pytest.raises(ValueError, match=r"reference_error has shape \(4, 1\)"):
        wrong(case, reference_pred=None, reference_error=torch.zeros(4, 1))


@pytest.mark.parametrize("name", ["target", "reference_pred"])
def test_constants_with_a_gradient_are_refused(name: str) -> None:
    value = torch.zeros(4, 3, 5, requires_grad=True)
    with pytest.raises(ValueError, match=f"{name} requires a gradient.*{name}.detach()"):
        wrong(plain(), **{name: value})


NUMBERS = {
    "temperature": (0.0, "temperature is 0.0; it must be a finite number above 0"),
    "beta": (-1.0, "beta is -1.0; it must be a finite number above 0"),
    "confidence": (-0.1, "confidence is -0.1; it must be a finite number of at least 0"),
    "threshold": (float("nan"), "threshold is nan; it must be a finite number"),
    "timestep_weight": (float("inf"), "timestep_weight is inf; it must be a finite number"),
    "draws": (0, "draws is 0; it must be at least 1"),
    "reduction": ("average", "reduction is 'average'; use one of 'mean', 'sum', 'none'"),
}


@pytest.mark.parametrize("name", list(NUMBERS))
def test_numbers(name: str) -> None:
    value, message = NUMBERS[name]
    with pytest.raises(ValueError, match=message):
        wrong(plain(), **{name: value})


@pytest.mark.parametrize(
    "name", ["beta", "temperature", "confidence", "threshold", "timestep_weight"]
)
def test_numbers_beyond_float64(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name} is beyond float64, whose largest number is 1.8e308"
    ):
        wrong(plain(), **{name: 10**400})
    if name in ("beta", "temperature"):
        with pytest.raises(ValueError, match=f"{name} is 0.0; it must be a finite number above 0"):
            wrong(plain(), **{name: Fraction(1, 10**400)})
        with pytest.raises(ValueError, match=f"{name} is beyond float64"):
            TGOLoss(0.5, **{name: 10**400})
    with pytest.raises(ValueError, match="loss_scale is beyond float64"):
        plain().call(loss_and_grad, loss_scale=10**400)


def test_draws_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="4 rows do not divide into samples of draws=3"):
        wrong(plain(), draws=3)


TYPES = {
    "policy_pred": ([1.0], "policy_pred is a list; pass a torch.Tensor"),
    "scores": ([1.0] * 4, "scores is a list; pass a torch.Tensor"),
    "threshold": ("median", "threshold is a str; pass a number"),
    "beta": (torch.tensor(1.0), "beta is a Tensor; pass a Python number"),
    "temperature": ("auto", "temperature is a str; pass a Python number"),
    "draws": (1.0, "draws is 1.0; pass a positive integer"),
    "timestep_weight": ("min_snr", "timestep_weight is a str; pass a Python number"),
    "sample_weight": ([1.0] * 4, "sample_weight is a list; pass a Python number"),
    "scored": (torch.ones(4), r"scored has dtype torch.float32; pass torch.bool, .* ~scores.isnan"),
}


@pytest.mark.parametrize("name", list(TYPES))
def test_types(name: str) -> None:
    value, message = TYPES[name]
    with pytest.raises(TypeError, match=message):
        wrong(plain(), **{name: value})


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_score_gives_a_nan_loss(backend: str) -> None:
    case = plain()
    case.scores[2] = float("nan")
    each = case.call(tgo_loss, reduction="none", backend=backend)
    assert each.isnan().tolist() == [False, False, True, False]


def test_log_probs_and_sft_check_alike() -> None:
    with pytest.raises(ValueError, match=r"policy_log_prob has shape \(2, 1\)"):
        tgo_loss_from_log_probs(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="reference_log_prob requires a gradient"):
        tgo_loss_from_log_probs(
            torch.zeros(2), torch.zeros(2, requires_grad=True), torch.zeros(2), 0.5
        )
    with pytest.raises(ValueError, match="beta is 0"):
        tgo_loss_from_log_probs(torch.zeros(2), torch.zeros(2), torch.zeros(2), 0.5, beta=0)
    with pytest.raises(ValueError, match="reduction is 'x'"):
        sft_loss(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2), 0.5, reduction="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target has shape \(2, 3\)"):
        sft_loss(torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2), 0.5)
