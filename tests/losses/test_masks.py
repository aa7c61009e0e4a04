"""Masks of elements: which are taken, which are refused, and the same weights on every backend."""

from __future__ import annotations

import pytest
import torch

from tests.ops.loss_cases import Case, make_case
from tglo import log_ratio, loss_and_grad, policy_error, prediction_error, tgo_loss
from tglo.losses.masks import mask_weights
from tglo.ops import layout

BACKENDS = ("auto", "reference")
SHAPE = (4, 4, 5, 6)  # as many samples as channels


def case() -> Case:
    return make_case(SHAPE, torch.float32)


@pytest.mark.parametrize("shape", [(4, 5, 6), (5, 6), (6,), (), (1, 4, 1, 5, 6)])
def test_a_mask_has_the_predictions_dimensions(shape: tuple[int, ...]) -> None:
    """(B, H, W) would broadcast as (C, H, W) here, and be refused in the next batch."""
    mask = torch.ones(shape, dtype=torch.bool)
    text = rf"mask has shape .*, {len(shape)} dimensions, but the prediction has \(4, 4, 5, 6\), 4"
    with pytest.raises(ValueError, match=text):
        case().call(tgo_loss, mask=mask)
    for function in (prediction_error, policy_error):
        with pytest.raises(ValueError, match=text):
            function(case().policy_pred, case().target, mask)


def test_a_mask_that_does_not_broadcast_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 2, 5, 6\), which does not broadcast"):
        case().call(tgo_loss, mask=torch.ones(4, 2, 5, 6))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(wrong: float, backend: str) -> None:
    mask = torch.ones(4, 1, 5, 6)
    mask[2, 0, 3, 3] = wrong
    with pytest.raises(ValueError, match=f"mask holds {wrong:g}; weights must be finite and"):
        case().call(tgo_loss, mask=mask, backend=backend)
    with pytest.raises(ValueError, match=f"mask holds {wrong:g}"):
        prediction_error(case().policy_pred, case().target, mask, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cached", [False, True])
def test_a_bad_weight_that_nobody_could_see_shows_in_its_row(cached: bool, backend: str) -> None:
    """As on a GPU: the mask becomes NaN there, and the kernels hide no NaN."""
    one = case()
    mask = torch.ones(4, 1, 5, 6)
    mask[1, 0, 0, 0], mask[2] = -1.0, 0.0

    def losses(weights: torch.Tensor) -> torch.Tensor:
        return one.call(tgo_loss, mask=weights, reduction="none", cached=cached, backend=backend)

    class Unseen(torch.Tensor):
        """A subclass, whose values are not read."""

    found = losses(mask.as_subclass(Unseen))
    assert found.isnan().tolist() == [False, True, False, False]
    (gradient,) = torch.autograd.grad(found.sum(), one.policy_pred)
    assert gradient[1].isnan().all() and not gradient[[0, 2, 3]].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64]
)
def test_dtypes_of_a_mask_agree(dtype: torch.dtype, backend: str) -> None:
    mask = (torch.arange(30).reshape(1, 1, 5, 6) % 3).clamp(max=1)
    one = case()
    expected = one.call(tgo_loss, mask=mask.float(), backend=backend)
    assert torch.equal(one.call(tgo_loss, mask=mask.to(dtype), backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_are_float32_beside_narrower_predictions(backend: str) -> None:
    """Weights that float32 does not tell from 0 are 0 on every backend, not on some."""
    tiny = torch.full((4, 1, 1, 1), 1e-300, dtype=torch.float64)
    assert not prediction_error(case().policy_pred, case().target, tiny, backend=backend).any()
    wide = case().policy_pred.double(), case().target.double()
    torch.testing.assert_close(prediction_error(*wide, tiny), prediction_error(*wide))


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_batch_has_an_empty_mask(rows: int) -> None:
    """Zero loss and zero gradients; the mask has a row for each sample, or one for all."""
    one = make_case((0, 4, 5, 6), torch.float32)
    for mask in (torch.ones(rows, 1, 5, 6), torch.ones(rows, 4, 1, 1, dtype=torch.bool)):
        for backend in BACKENDS:
            one.policy_pred.grad = None
            loss = one.call(tgo_loss, mask=mask, backend=backend)
            loss.backward()
            assert loss == 0 and one.policy_pred.grad is not None
            _, gradient = one.call(loss_and_grad, mask=mask, backend=backend)
            assert gradient.shape == one.policy_pred.grad.shape == (0, 4, 5, 6)
            options = {"mask": mask, "backend": backend}
            error = prediction_error(one.policy_pred, one.target, **options)
            ratio = log_ratio(one.policy_pred, one.target, reference_error=error, **options)
            policy_error(one.policy_pred, one.target, **options).sum().backward()
            assert error.shape == ratio.shape == (0,)


def test_a_mask_gets_no_gradient() -> None:
    mask = torch.ones(4, 1, 5, 6, requires_grad=True)
    weights = mask_weights(mask, case().policy_pred)
    assert weights is not None and not weights.requires_grad
    assert mask_weights(None, case().policy_pred) is None


def test_weights_in_the_order_of_memory() -> None:
    """What is the same along the outermost and the innermost dimensions is not written out."""
    like = torch.zeros(2, 3, 4, 5)
    mask = torch.arange(4.0).reshape(1, 1, 4, 1)
    weights, inner = layout.memory_mask(mask, like)
    assert weights.tolist() == [[0.0, 1.0, 2.0, 3.0]] and inner == 5
    weights, inner = layout.memory_mask(mask, like.contiguous(memory_format=torch.channels_last))
    assert weights.tolist() == [[0.0, 1.0, 2.0, 3.0]] and inner == 15
    full = torch.arange(120.0).reshape(2, 3, 4, 5)
    weights, inner = layout.memory_mask(full, like.to(memory_format=torch.channels_last))
    assert torch.equal(weights, full.permute(0, 2, 3, 1).reshape(2, 60)) and inner == 1
