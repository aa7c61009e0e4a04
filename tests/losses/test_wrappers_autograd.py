"""The loss under other uses of autograd: weights, checkpointing, saved tensors, functional transforms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.losses.test_wrappers import (
    BACKENDS,
    assert_all_close,
    expected_gradients,
    gradients,
    loss_of,
    make_batch,
    make_model,
    needs_kernels,
)
from tests.ops.loss_cases import make_case, widened
from tglo import tgo_loss


def test_uneven_weights_of_the_single_losses() -> None:
    batch, weights = make_batch(), torch.tensor([0.0, 3.0, -1.0, 0.25])
    model, wide_model = make_model(), make_model().double()
    (weights * loss_of(model(batch["noisy"]), batch, reduction="none")).sum().backward()
    wide = {name: tensor.double() for name, tensor in batch.items()}
    losses = loss_of(wide_model(wide["noisy"]), wide, reduction="none")
    assert losses.dtype == torch.float64
    losses.backward(weights.double())
    expected = [g.float() for g in gradients(wide_model)]
    assert_all_close(gradients(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", ["model", "model, reentrant", "model and loss"])
def test_checkpointing_changes_no_bit(part: str, backend: str) -> None:
    batch, model = make_batch(), make_model()
    noisy = batch["noisy"].clone().requires_grad_()
    if part == "model and loss":
        loss = checkpoint(
            lambda x: loss_of(model(x), batch, backend=backend), noisy, use_reentrant=False
        )
    else:
        prediction = checkpoint(model, noisy, use_reentrant="reentrant" in part)
        loss = loss_of(prediction, batch, backend=backend)
    loss.backward()
    expected = expected_gradients(batch, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))


def test_saved_tensors_may_be_moved() -> None:
    batch, model = make_batch(), make_model()
    with torch.autograd.graph.save_on_cpu():
        loss = loss_of(model(batch["noisy"]), batch)
    loss.backward()
    expected = expected_gradients(batch)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))


@pytest.mark.parametrize("name", ["prediction", "target"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tensor_changed_after_the_loss_gives_no_wrong_gradient(backend: str, name: str) -> None:
    """The kernels keep the tensors and notice; plain PyTorch keeps their differences."""
    batch, model = make_batch(), make_model()
    prediction = model(batch["noisy"])
    loss = loss_of(prediction, batch, backend=backend)
    (prediction if name == "prediction" else batch["target"]).add_(1)
    try:
        loss.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert_all_close(gradients(model), expected_gradients(make_batch(), backend=backend))


def functional_loss(backend: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    case = widened(make_case((4, 3, 8), torch.float32))
    case = case if backend == "reference" else make_case((4, 3, 8), torch.float32)

    def loss(policy: Tensor) -> Tensor:
        return case._replace(policy_pred=policy).call(tgo_loss, backend=backend)  # type: ignore[no-any-return]

    return loss, case.policy_pred.detach()


@needs_kernels
def test_functional_gradients_of_a_kernel_raise() -> None:
    loss, policy = functional_loss("cpu")
    for transform in (torch.func.grad, torch.func.jacrev):
        with pytest.raises(RuntimeError, match="setup_context"):
            transform(loss)(policy)


def test_functional_transforms_of_the_reference_backend() -> None:
    loss, policy = functional_loss("reference")
    leaf = policy.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.equal(torch.func.grad(loss)(policy), leaf.grad)
    tangent = torch.randn_like(policy)
    value, slope = torch.func.jvp(loss, (policy,), (tangent,))
    assert torch.equal(value, loss(policy))
    torch.testing.assert_close(slope, (leaf.grad * tangent).sum())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_gives_each_loss(backend: str) -> None:
    loss, policy = functional_loss(backend)
    stack = torch.stack([policy, 1.001 * policy])
    each = torch.stack([loss(stack[0]), loss(stack[1])])
    torch.testing.assert_close(torch.func.vmap(loss)(stack), each)


@needs_kernels
@pytest.mark.xfail(reason="the operators have no forward-mode formula, and torch drops the tangent")
def test_forward_mode_of_a_kernel_raises() -> None:
    loss, policy = functional_loss("cpu")
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(loss, (policy,), (torch.ones_like(policy),))
