"""What is found in memory and in numbers where it costs no waiting: tglo/losses/values.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import make_case
from tglo import TGOLoss, log_ratio, loss_and_grad, sft_loss, tgo_loss, tgo_loss_from_log_probs
from tglo.losses.log_ratio import log_ratio_of_errors

SHARED: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "detached": lambda x: (x, x.detach()),
    "no gradient": lambda x: (x.detach(), x.detach()),
    "view": lambda x: (x, x.detach().view(4, -1).view_as(x)),
    "a row further on": lambda x: (x[1:], x.detach()[:-1]),
    "a row before": lambda x: (x[:-1], x.detach()[1:]),
    "a parameter": lambda x: (torch.nn.Parameter(x.detach()), x.detach()),
    "one buffer, another type": lambda x: (x, x.detach().view(torch.float32)),
}
APART: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "copy": lambda x: (x, x.detach().clone()),
    "halves of one batch": lambda x: (x.chunk(2)[0], x.detach().chunk(2)[1]),
    "halves, the second first": lambda x: (x.chunk(2)[1], x.detach().chunk(2)[0]),
    "interleaved": lambda x: (x[..., 0::2], x.detach()[..., 1::2]),
    "halves of the channels": lambda x: (x[:, :2], x.detach()[:, 2:]),
    "on the meta device": lambda x: (x.detach().to("meta"), x.detach().to("meta")),
    "no rows": lambda x: (x[:0], x.detach()[:0]),
}


def call(policy: Tensor, other: Tensor) -> Tensor:
    target = torch.zeros_like(policy, requires_grad=False)
    scores = policy.detach().new_zeros(len(policy))
    return tgo_loss(policy, target, scores, 0.5, reference_pred=other)


@pytest.mark.parametrize("name", SHARED)
def test_a_reference_in_the_policys_memory_is_refused(name: str) -> None:
    policy, other = SHARED[name](torch.randn(4, 4, 6).requires_grad_())
    with pytest.raises(ValueError, match="reference_pred lies in the same memory as policy_pred"):
        call(policy, other)


@pytest.mark.parametrize("name", APART)
def test_views_that_do_not_meet_are_taken(name: str) -> None:
    policy, other = APART[name](torch.randn(4, 4, 6).requires_grad_())
    assert call(policy, other).shape == ()


def test_every_form_of_the_loss_looks() -> None:
    case = make_case((4, 6), torch.float32)
    policy, other = case.policy_pred, case.policy_pred.detach()
    rest = case.target, case.scores, 0.5
    for form in (tgo_loss, loss_and_grad, TGOLoss()):
        with pytest.raises(ValueError, match="in the same memory as policy_pred"):
            form(policy, *rest, reference_pred=other)
    with pytest.raises(ValueError, match="in the same memory as policy_pred"):
        log_ratio(policy, case.target, reference_pred=other)
    log_prob = torch.zeros(4, requires_grad=True)
    with pytest.raises(ValueError, match="reference_log_prob lies in the same memory"):
        tgo_loss_from_log_probs(log_prob, log_prob.detach(), case.scores, 0.5)


def test_compiled_and_batched_calls_are_not_looked_into() -> None:
    case = make_case((4, 6), torch.float32)
    weight = torch.ones(4)

    def loss(policy: Tensor, other: Tensor) -> Tensor:
        return tgo_loss(
            policy, case.target, case.scores, 0.5, reference_pred=other, timestep_weight=weight
        )

    policy = case.policy_pred.detach()
    expected = loss(policy, case.reference_pred)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(policy, case.reference_pred), expected)
    both = torch.func.vmap(loss)(torch.stack([policy] * 2), torch.stack([case.reference_pred] * 2))
    assert torch.equal(both, expected.expand(2))


WRONG = [float("nan"), float("inf"), -float("inf"), -0.5]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize("rows", [4, 200])
def test_a_weight_that_is_none_is_named(wrong: float, place: int, rows: int) -> None:
    case = make_case((rows, 6), torch.float32)
    weight = torch.ones(rows, dtype=torch.float64)
    weight[place] = wrong
    with pytest.raises(
        ValueError, match=f"timestep_weight holds {wrong:g}; weights must be finite"
    ):
        case.call(tgo_loss, timestep_weight=weight)


def test_the_other_functions_with_a_timestep_weight_look_too() -> None:
    case, wrong = make_case((4, 6), torch.float32), torch.tensor([1.0, 1.0, 1.0, float("inf")])
    with pytest.raises(ValueError, match="timestep_weight holds inf"):
        sft_loss(case.policy_pred, case.target, case.scores, 0.5, timestep_weight=wrong)
    with pytest.raises(ValueError, match="timestep_weight holds inf"):
        log_ratio_of_errors(torch.ones(4), torch.zeros(4), timestep_weight=wrong)


def test_weights_at_the_limits_are_taken() -> None:
    case = make_case((4, 6), torch.float32)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64):
        weight = torch.tensor([0, 0, 1, 2], dtype=dtype)
        assert case.call(tgo_loss, timestep_weight=weight).isfinite()
    largest = torch.full((4,), torch.finfo(torch.float32).max)
    same = case._replace(reference_pred=case.policy_pred.detach().clone())
    assert same.call(tgo_loss, timestep_weight=largest).isfinite()


def test_weights_whose_sum_is_too_large_are_refused() -> None:
    case = make_case((4, 6), torch.float32)
    weight = torch.tensor([1.7e308, 1.7e308, 1, 1], dtype=torch.float64)
    with pytest.raises(ValueError, match="timestep_weight holds inf; weights must be finite"):
        case.call(tgo_loss, timestep_weight=weight)
