"""Bad input to the token losses: faults 13, 16, 17 and 18 (12 and 14 are in tests/losses/test_tokens.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.token_cases import TokenCase, make_token_case, widened
from tglo import tgo_token_loss, token_log_prob

SHAPE = (3, 5, 6, 17)


def plain() -> TokenCase:
    return make_token_case(SHAPE, torch.float32)


def call(case: TokenCase, **options: Any) -> Any:
    arguments = case.hidden, case.weight, case.targets, case.mask, case.scores, 0.5
    return tgo_token_loss(*arguments, **options)


FOREIGN: dict[str, Callable[[Tensor], Tensor]] = {
    r"has dtype torch.float8_e4m3fn; pass bfloat16": lambda x: x.to(torch.float8_e4m3fn),
    r"has dtype torch.complex64; pass bfloat16": lambda x: x.to(torch.complex64),
    r"is a torch.sparse_coo tensor; pass an ordinary one": lambda x: x.to_sparse(),
}


@pytest.mark.parametrize("reason", FOREIGN)
@pytest.mark.parametrize("name", ["hidden", "weight", "bias", "reference_hidden", "reference_bias"])
def test_13_tensors_of_other_kinds_are_refused_by_name(name: str, reason: str) -> None:
    case = plain()
    assert case.bias is not None
    options = {
        "bias": case.bias.detach(),
        "reference_hidden": case.other_hidden,
        "reference_weight": case.other_weight,
        "reference_bias": case.bias.detach(),
    }
    if name in options:
        options[name] = FOREIGN[reason](options[name])
    else:
        case = case._replace(**{name: FOREIGN[reason](getattr(case, name).detach())})
    with pytest.raises(TypeError, match=f"{name} {reason}"):
        call(case, **options)


@pytest.mark.parametrize("wide", ["bias", "reference_bias", "reference_hidden", "weight"])
def test_13_what_is_float64_makes_policy_and_reference_float64(wide: str) -> None:
    """A reference in float32 beside a policy in float64 would leave float32's error in their ratio."""
    case = plain()
    assert case.bias is not None
    options = {
        "bias": case.bias,
        "reference_hidden": case.other_hidden,
        "reference_weight": case.other_weight,
        "reference_bias": case.bias.detach(),
    }
    if wide in options:
        options[wide] = options[wide].double()
    else:
        case = case._replace(weight=case.weight.detach().double().requires_grad_())
    truth, exact = widened(case).loss(return_stats=True)
    loss, stats = call(case, return_stats=True, **options)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, truth, rtol=1e-13, atol=0)
    torch.testing.assert_close(stats.implicit_score, exact.implicit_score, rtol=1e-12, atol=1e-14)
    loss.backward()
    assert case.hidden.grad is not None and case.hidden.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["weight", "bias", "targets", "mask", "reference_hidden", "scores"]
)
def test_16_devices_that_differ_are_both_named(name: str) -> None:
    case = plain()
    assert case.bias is not None
    options = {"bias": case.bias.detach(), "reference_hidden": case.other_hidden}
    if name in options:
        options[name] = options[name].to("meta")
    else:
        case = case._replace(**{name: getattr(case, name).detach().to("meta")})
    with pytest.raises(ValueError, match=f"{name} is on meta but (hidden|policy_pred) is on cpu"):
        call(case, **options)


def test_17_the_policys_hidden_states_as_its_reference() -> None:
    case = plain()
    for other, reason in ((case.hidden, "very tensor"), (case.hidden.detach(), "same memory")):
        with pytest.raises(ValueError, match=f"reference_hidden .*{reason}"):
            call(case, reference_hidden=other)
        # a frozen trunk under a trained head: the reference has another weight
        assert call(
            case, reference_hidden=case.hidden.detach(), reference_weight=case.other_weight
        ).isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_18_saturated_sigmoid(dtype: torch.dtype) -> None:
    case = make_token_case((4, 5, 6, 17), dtype)._replace(scores=torch.tensor([1.0, 0, 1, 0]))
    error = case.error().detach()
    shift = torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=torch.float64)
    loss = call(case, bias=case.bias, reference_error=error + shift, reduction="none")
    torch.testing.assert_close(
        loss.double(), torch.tensor([0.0, 3.5e4, 3.5e4, 0.0]).double(), rtol=1e-6, atol=0
    )
    (gradient,) = torch.autograd.grad(loss.sum(), case.hidden)
    assert gradient.isfinite().all() and not gradient[[0, 3]].any()
    assert gradient[1][case.mask[1]].abs().max() > 0 and gradient[2][case.mask[2]].abs().max() > 0


def test_18_infinite_logits_are_not_hidden() -> None:
    case = plain()
    hidden = case.hidden.detach().clone()
    hidden[0][case.mask[0]] = torch.inf
    found = token_log_prob(hidden, case.weight, case.targets, case.mask)
    assert not found[0][case.mask[0]].isfinite().any() and found[1:].isfinite().all()
