"""Bad input to the losses: faults 12 to 18, and every argument that can be wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops.loss_cases import HALF_AND_SINGLE, Case, make_case, outcome, widened
from tglo import prediction_error, sft_loss, tgo_loss, tgo_loss_from_log_probs

BACKENDS = ("auto", "reference")


def plain() -> Case:
    return make_case((4, 3, 5), torch.float32)


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


def test_13_mixed_dtypes_are_promoted_and_integers_refused() -> None:
    case = plain()
    half = case._replace(target=case.target.half(), reference_pred=case.reference_pred.bfloat16())
    same = half._replace(target=half.target.float(), reference_pred=half.reference_pred.float())
    assert torch.equal(outcome(half, tgo_loss).loss, outcome(same, tgo_loss).loss)
    with pytest.raises(TypeError, match=r"target has dtype torch\.int64; pass bfloat16"):
        case._replace(target=case.target.long()).call(tgo_loss)
    with pytest.raises(TypeError, match=r"scores has dtype torch\.bool; pass real numbers"):
        case._replace(scores=case.scores > 0).call(tgo_loss)


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
    log_prob = torch.zeros(3)
    with pytest.raises(ValueError, match="the very tensor passed as policy_log_prob"):
        tgo_loss_from_log_probs(log_prob, log_prob, torch.zeros(3), 0.5)


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


def wrong(case: Case, **change: Any) -> Any:
    """The call with one argument replaced; `None` for reference_pred leaves it out."""
    options: dict[str, Any] = {"reference_pred": case.reference_pred, **case.options}
    tensors = {
        "policy_pred": case.policy_pred,
        "target": case.target,
        "scores": case.scores,
        "threshold": case.threshold,
    }
    for name, value in change.items():
        (tensors if name in tensors else options)[name] = value
    return tgo_loss(*tensors.values(), **options)


SHAPES = {
    "target": (torch.zeros(4, 3, 4), r"target has shape \(4, 3, 4\) but policy_pred has \(4, 3, 5"),
    "reference_pred": (torch.zeros(4, 3, 1), r"reference_pred has shape \(4, 3, 1\) but"),
    "scores": (torch.zeros(3), r"scores has shape \(3,\); it must be \(4,\): one number per"),
    "threshold": (torch.zeros(2), r"threshold has shape \(2,\); it must be \(4,\)"),
    "timestep_weight": (torch.zeros(4, 1), r"timestep_weight has shape \(4, 1\); it must be"),
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
