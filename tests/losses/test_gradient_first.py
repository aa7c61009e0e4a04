"""The gradient that the forward computes in the same pass: handed on by the first backward, and never other than
what two passes give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.losses.test_wrappers import needs_kernels
from tests.ops.loss_cases import Case, make_case, make_masks
from tglo import tgo_loss
from tglo.ops import tie

pytestmark = needs_kernels


@pytest.fixture(autouse=True)
def expecting_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tie, "_factor", 1.0)
    yield


@pytest.fixture
def two_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Runs something with the gradient computed in the backward alone."""

    def run(body: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr("tglo.ops.loss.gradient_comes_first", lambda *_: False)
            return body()

    return run


def cases() -> list[Case]:
    shape = (6, 3, 4, 5)
    mask = make_masks(shape)["weighted pixels"]
    return [
        make_case(shape, torch.float32),
        make_case(shape, torch.bfloat16, draws=2, weighted=True),
        make_case(shape, torch.float16, mask=mask, mask_mean="elements"),
        make_case((5, 70001), torch.bfloat16),
    ]


def gradient(case: Case, factor: float | None = None, **options: Any) -> Tensor:
    loss = case.call(tgo_loss, **options)
    outer = None if factor is None else torch.tensor(factor)
    (found,) = torch.autograd.grad(loss, case.policy_pred, outer)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("cached", [False, True])
def test_no_bit_depends_on_when_the_gradient_is_computed(
    number: int, reduction: str, cached: bool, two_passes: Any
) -> None:
    case, options = cases()[number], {"reduction": reduction, "cached": cached}
    for factor in (None, 1.0, 1 / 3, 1 / 3, 65536.0, float("inf"), 0.0, -2.5, 1.0):
        if reduction == "none":
            factors = torch.linspace(0, 1, len(case.scores))
            found, expected = (
                torch.autograd.grad(
                    run(lambda: case.call(tgo_loss, **options)), case.policy_pred, factors
                )
                for run in (lambda body: body(), two_passes)
            )
            assert torch.equal(found[0], expected[0])
            continue
        found = gradient(case, factor, **options)
        expected = two_passes(lambda f=factor: gradient(case, f, **options))
        assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7)), factor
        assert found.stride() == expected.stride() and found.dtype == expected.dtype
    nan = gradient(case, float("nan")) if reduction != "none" else None
    assert nan is None or nan.isnan().all() or "mask" in case.options


def test_the_forward_expects_what_the_last_backward_was_given() -> None:
    case = make_case((4, 6), torch.float32)
    node = case.call(tgo_loss).grad_fn
    assert node is not None and node.ready[1] == 1.0
    gradient(case, 0.25)
    node = case.call(tgo_loss).grad_fn
    assert node is not None and node.ready[1] == 0.25
    (case.call(tgo_loss) / 4).backward()
    assert tie._factor == 0.25


def test_a_retained_graph_gives_each_backward_a_gradient_of_its_own() -> None:
    case = make_case((4, 6), torch.float32)
    loss = case.call(tgo_loss)
    first, second, third = (
        torch.autograd.grad(loss, case.policy_pred, torch.tensor(factor), retain_graph=True)[0]
        for factor in (1.0, 1.0, 0.5)
    )
    assert torch.equal(first, second) and torch.equal(third, first / 2)
    first.zero_()
    (again,) = torch.autograd.grad(loss, case.policy_pred)
    assert torch.equal(again, second) and second.any()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_gradients_accumulate() -> None:
    case = make_case((4, 6), torch.float32)
    once = gradient(case)
    for _ in range(3):
        case.call(tgo_loss).backward()
    assert case.policy_pred.grad is not None
    torch.testing.assert_close(case.policy_pred.grad, 3 * once)
    case.policy_pred.grad = None
    for _ in range(2):
        (case.call(tgo_loss) / 2).backward()
    assert torch.equal(case.policy_pred.grad, once)


def test_hooks_see_and_change_the_gradient() -> None:
    case = make_case((4, 6), torch.float32)
    expected = gradient(case)
    prediction = case.policy_pred * 1.0
    prediction.retain_grad()
    seen: list[Tensor] = []
    prediction.register_hook(lambda g: seen.append(g.clone()) or 3 * g)
    case._replace(policy_pred=prediction).call(tgo_loss).backward()
    assert torch.equal(seen[0], expected) and torch.equal(prediction.grad, 3 * expected)  # type: ignore[arg-type]


def test_one_prediction_in_two_losses() -> None:
    case = make_case((4, 6), torch.float32)
    other = case._replace(reference_pred=case.target + 0.1)
    sum_of_both = gradient(case) + gradient(other)
    prediction = case.policy_pred * 1.0
    losses = [c._replace(policy_pred=prediction).call(tgo_loss) for c in (case, other)]
    (losses[0] + losses[1]).backward()
    assert torch.equal(case.policy_pred.grad, sum_of_both)  # type: ignore[arg-type]
    case.policy_pred.grad = None
    prediction = case.policy_pred * 1.0
    mixed = case._replace(policy_pred=prediction).call(tgo_loss) + prediction.square().mean()
    mixed.backward()
    extra = 2 * case.policy_pred.detach() / case.policy_pred.numel()
    torch.testing.assert_close(case.policy_pred.grad, gradient(case) + extra)


@pytest.mark.parametrize("name", ["policy_pred", "target"])
def test_a_tensor_changed_in_between_raises(name: str) -> None:
    case = make_case((4, 6), torch.float32)
    prediction = case.policy_pred * 1.0
    changed = case._replace(policy_pred=prediction)
    loss = changed.call(tgo_loss)
    with torch.no_grad():
        getattr(changed, name).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_one_vector_of_gradients_and_batches_of_them() -> None:
    case = make_case((4, 6), torch.float32)
    factors = torch.tensor([1.0, 0.5, 2.0])
    (found,) = torch.autograd.grad(
        case.call(tgo_loss), case.policy_pred, factors, is_grads_batched=True
    )
    for factor, one in zip(factors.tolist(), found, strict=True):
        assert torch.equal(one, gradient(case, factor))


def is_ready(loss: Tensor) -> bool:
    assert loss.grad_fn is not None
    return bool(loss.grad_fn.ready)


def test_where_the_gradient_is_left_to_the_backward() -> None:
    case = make_case((4, 6), torch.float32)
    assert is_ready(case.call(tgo_loss)) and is_ready(case.call(tgo_loss, reduction="sum"))
    assert not is_ready(case.call(tgo_loss, reduction="none"))
    with torch.autograd.graph.save_on_cpu():  # the gradient would escape it
        assert not is_ready(case.call(tgo_loss))
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert case.call(tgo_loss).grad_fn is None
    frozen = case._replace(policy_pred=case.policy_pred.detach())
    assert frozen.call(tgo_loss).grad_fn is None
    assert not tie.gradient_comes_first(case.policy_pred.half(), "cuda")
    assert not tie.gradient_comes_first(case.policy_pred, "triton")
    assert tie.gradient_comes_first(case.policy_pred, "cuda")


def test_the_first_backward_takes_the_gradient_away() -> None:
    """Nothing is held twice, and a fresh gradient becomes .grad without a copy."""
    case = make_case((4, 6), torch.float32)
    loss = case.call(tgo_loss)
    assert loss.grad_fn is not None
    address = loss.grad_fn.ready[0].data_ptr()
    loss.backward()
    assert case.policy_pred.grad is not None and case.policy_pred.grad.data_ptr() == address
    assert not is_ready(loss)


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_a_graph_of_one_half_computes_the_gradient_in_the_backward(
    forward: bool, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA graph replays is not the whole of what was computed first."""
    case = make_case((4, 6), torch.float32)
    expected = gradient(case)
    monkeypatch.setattr(tie, "_captured", lambda _: forward)
    loss = case.call(tgo_loss)
    assert loss.grad_fn is not None
    early = loss.grad_fn.ready[0]
    monkeypatch.setattr(tie, "_captured", lambda _: backward)
    (found,) = torch.autograd.grad(loss, case.policy_pred)
    assert torch.equal(found, expected)
    assert (found.data_ptr() == early.data_ptr()) == (forward == backward)


def peak_bytes(body: Callable[[], object]) -> int:
    """The most that tensors hold at once, above what they hold before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        body()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("factor", [1.0, 1 / 3])
def test_a_training_step_needs_no_more_memory(factor: float, two_passes: Any) -> None:
    """When the backward begins, two passes have policy, target and a fresh gradient too."""
    case = make_case((4, 8, 32, 32), torch.float32)
    layer = torch.nn.Conv2d(8, 8, 3, padding=1)

    def step() -> None:
        prediction = layer(case.target)
        (factor * case._replace(policy_pred=prediction).call(tgo_loss)).backward()

    step()
    found, before = peak_bytes(step), two_passes(lambda: peak_bytes(step))
    small = 1024  # batch-sized vectors
    assert case.target.nbytes < found <= before + small
