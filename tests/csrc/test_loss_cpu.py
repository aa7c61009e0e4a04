"""The CPU kernels against the formulas in float64: values, gradients, layouts, repeatability."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import (
    HALF_AND_SINGLE,
    Case,
    assert_as_good_as_eager,
    make_case,
    make_masks,
    outcome,
    widened,
)
from tglo import loss_and_grad, ops, prediction_error, reference, tgo_loss
from tglo.ops import layout

pytestmark = pytest.mark.skipif(
    not ops.EXTENSION.loaded, reason=f"no CPU kernels: {ops.EXTENSION.problem}"
)

# Below, at and above one vector, one float block (512) and one part of a row (16384).
SHAPES = ((1, 1), (3, 7), (2, 3, 5, 7), (4, 16), (3, 511), (2, 1025), (2, 16384), (1, 40001))


def check(case: Case, *, cached: bool = False, outer: Tensor | None = None) -> None:
    assert_as_good_as_eager(case, backend="cpu", cached=cached, outer=outer)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cached", [False, True])
def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype, cached: bool) -> None:
    check(make_case(shape, dtype), cached=cached)


@pytest.mark.parametrize(("batch", "dtype"), [(1, torch.float32), (4, torch.bfloat16)])
@pytest.mark.parametrize("cached", [False, True])
def test_rows_of_a_wan_clip(batch: int, dtype: torch.dtype, cached: bool) -> None:
    """81 frames of 480 x 832 at the temperature that belongs to their 2.1 million elements; r is 0.13 in size."""
    case = make_case((batch, 16, 21, 60, 104), dtype, temperature=1e-3 * 16_384 / 2_096_640)
    check(case, cached=cached)
    r = outcome(case, tgo_loss, backend="cpu", cached=cached).implicit_score
    exact = outcome(widened(case), tgo_loss, cached=cached).implicit_score
    assert 0.01 < exact.abs().max() < 1 and (r - exact).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("draws", [1, 3])
def test_draws_weights_and_uneven_outer_gradient(dtype: torch.dtype, draws: int) -> None:
    case = make_case((6, 2, 37), dtype, draws=draws, weighted=True, beta=0.7, confidence=3.0)
    check(case, outer=torch.linspace(-1.5, 2.0, 6 // draws))


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("beta", [10.0, 1000.0])
def test_saturation_stays_finite(dtype: torch.dtype, beta: float) -> None:
    """r reaches 1e4, where exp(r) overflows and exp(-r) underflows even in float64."""
    case = make_case((6, 300), dtype, distance=0.1, beta=beta)
    check(case)
    kernel = outcome(case, tgo_loss, backend="cpu")
    assert kernel.implicit_score.abs().max() > 9 * beta
    assert kernel.loss.isfinite().all() and kernel.gradient.isfinite().all()


@pytest.mark.parametrize("threshold", [0.5, torch.tensor(0.5), torch.linspace(0, 1, 4)])
def test_threshold_as_number_or_tensor(threshold: float | Tensor) -> None:
    case = make_case((4, 9), torch.float32)._replace(threshold=threshold)  # type: ignore[arg-type]
    check(case)


def _layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in other memory layouts."""
    strided = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan")).to(tensor)
    strided[..., ::2] = tensor
    return {
        "contiguous": tensor.contiguous(),
        "channels_last": tensor.contiguous(memory_format=torch.channels_last),
        "strided": strided[..., ::2],
        "batch_inside": tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "permuted": tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    }


@pytest.mark.parametrize("target_layout", list(_layouts(torch.zeros(1, 1, 1, 1))))
@pytest.mark.parametrize("policy_layout", list(_layouts(torch.zeros(1, 1, 1, 1))))
def test_layouts(policy_layout: str, target_layout: str) -> None:
    case = make_case((4, 3, 5, 7), torch.bfloat16)
    expected = outcome(case, tgo_loss, backend="cpu")
    policy = _layouts(case.policy_pred.detach())[policy_layout].requires_grad_()
    other = case._replace(
        policy_pred=policy,
        target=_layouts(case.target)[target_layout],
        reference_pred=_layouts(case.reference_pred)["contiguous"],
    )
    result = outcome(other, tgo_loss, backend="cpu")
    torch.testing.assert_close(result.implicit_score, expected.implicit_score, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(result.gradient, expected.gradient, rtol=0.01, atol=1e-6)


MASKED = (6, 4, 5, 19)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", list(make_masks(MASKED)))
def test_masks(name: str, cached: bool, dtype: torch.dtype) -> None:
    case = make_case(MASKED, dtype, draws=2, weighted=True, mask=make_masks(MASKED)[name])
    check(case, cached=cached, outer=torch.linspace(-1.5, 2.0, 3))


@pytest.mark.parametrize("name", list(make_masks(MASKED)))
@pytest.mark.parametrize("layout_name", ["channels_last", "strided", "permuted"])
def test_masks_in_other_layouts(layout_name: str, name: str) -> None:
    case = make_case(MASKED, torch.float32, mask=make_masks(MASKED)[name])
    expected = outcome(case, tgo_loss, backend="cpu")
    policy = _layouts(case.policy_pred.detach())[layout_name].requires_grad_()
    result = outcome(case._replace(policy_pred=policy), tgo_loss, backend="cpu")
    torch.testing.assert_close(result.implicit_score, expected.implicit_score, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(result.gradient, expected.gradient, rtol=1e-5, atol=1e-7)


def test_large_masks_cross_parts_of_a_row() -> None:
    shape = (2, 3, 100, 123)  # a part ends within a channel, a block within a line
    for name in ("weighted pixels", "columns", "channels"):
        check(make_case(shape, torch.bfloat16, mask=make_masks(shape)[name]))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("cached", [False, True])
def test_what_a_mask_hides_counts_for_nothing(backend: str, cached: bool) -> None:
    case = make_case(MASKED, torch.float32)
    mask = make_masks(MASKED)["pixels"].clone()
    mask[2] = False
    hidden = ~mask.expand(MASKED)
    error = prediction_error(case.reference_pred, case.target, mask, backend=backend)
    assert error[2] == 0.0
    results = []
    for inside in (0.0, float("nan"), float("inf")):
        tensors = [
            t.detach().masked_fill(hidden, inside)
            for t in (case.policy_pred, case.target, case.reference_pred)
        ]
        policy = tensors[0].requires_grad_()
        # a cached error of a row that has no weight is not looked at
        options = {"reference_error": error + 0.1 * (error == 0)} if cached else {}
        options = options or {"reference_pred": tensors[2]}
        loss, stats = tgo_loss(
            *(policy, tensors[1], case.scores, 0.5),
            mask=mask, backend=backend, return_stats=True, **options,
        )  # fmt: skip
        loss.backward()
        assert stats.implicit_score[2] == 0.0 and stats.policy_error[2] == 0.0
        assert policy.grad is not None and (policy.grad[hidden] == 0).all()
        results.append((loss.detach(), stats.implicit_score, policy.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert results[0][0].isfinite() and results[0][2].abs().max() > 0


def test_a_mask_of_ones_changes_nothing() -> None:
    case = make_case(MASKED, torch.bfloat16)
    masked = case._replace(
        options={**case.options, "mask": torch.ones(1, 1, 5, 19, dtype=torch.bool)}
    )
    a, b = outcome(case, tgo_loss, backend="cpu"), outcome(masked, tgo_loss, backend="cpu")
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("cached", [False, True])
def test_loss_and_grad_is_loss_and_backward(
    dtype: torch.dtype, reduction: str, cached: bool
) -> None:
    case = make_case((6, 3, 37), dtype, draws=3, weighted=True)
    case.options["mask"] = torch.rand(6, 1, 37) + 0.1
    outer = torch.ones(2) if reduction == "none" else None
    apart = outcome(case, tgo_loss, cached=cached, reduction=reduction, outer=outer, backend="cpu")
    loss, gradient, stats = case.call(
        loss_and_grad, cached=cached, reduction=reduction, return_stats=True, backend="cpu"
    )
    assert torch.equal(loss, apart.loss) and torch.equal(stats.implicit_score, apart.implicit_score)
    assert torch.equal(gradient, apart.gradient) and not gradient.requires_grad


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("scale", [1024.0, 0.25, torch.tensor(3.0), torch.tensor(3.0).double()])
def test_loss_and_grad_scales_the_gradient_alone(backend: str, scale: float | Tensor) -> None:
    case = make_case((4, 50), torch.float32)
    loss, gradient = case.call(loss_and_grad, backend=backend)
    same, scaled = case.call(loss_and_grad, loss_scale=scale, backend=backend)
    assert torch.equal(loss, same)
    torch.testing.assert_close(scaled, gradient * float(scale), rtol=1e-6, atol=0)
    truth = outcome(widened(case), tgo_loss)
    torch.testing.assert_close(gradient.double(), truth.gradient, rtol=1e-5, atol=1e-9)


def test_shared_channels_last_is_not_copied() -> None:
    case = make_case((4, 3, 5, 7), torch.float32)
    tensors = [
        t.contiguous(memory_format=torch.channels_last)
        for t in (case.policy_pred.detach(), case.target, case.reference_pred)
    ]
    shared = layout.share_layout(*tensors)
    assert all(a is b for a, b in zip(shared, tensors, strict=True))


def test_expanded_target() -> None:
    case = make_case((4, 6, 5), torch.float32)
    row = case.target[:1]
    expanded = case._replace(target=row.expand(4, 6, 5))
    whole = case._replace(target=row.expand(4, 6, 5).contiguous())
    a, b = outcome(expanded, tgo_loss, backend="cpu"), outcome(whole, tgo_loss, backend="cpu")
    assert torch.equal(a.loss, b.loss) and torch.equal(a.gradient, b.gradient)


def test_bitwise_repeatable_whatever_the_threads() -> None:
    case = make_case((3, 70001), torch.bfloat16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(outcome(case, tgo_loss, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            assert torch.equal(a, b)


def test_step_zero_ratio_of_a_cached_error_is_exactly_zero() -> None:
    case = make_case((3, 1000), torch.bfloat16)
    error = prediction_error(case.policy_pred, case.target)
    _, stats = tgo_loss(
        case.policy_pred,
        case.target,
        case.scores,
        0.5,
        reference_error=error,
        return_stats=True,
    )
    assert stats.implicit_score.tolist() == [0.0] * 3


def test_accuracy_that_training_needs() -> None:
    """r at T = 0.001 and 65,536 bf16 elements: 1e-6 with a prediction, 1e-5 with a cached error."""
    case = make_case((16, 65536), torch.bfloat16, distance=0.05, seed=1)
    truth = outcome(widened(case), tgo_loss)
    kernel = outcome(case, tgo_loss, backend="cpu")
    cached = outcome(case, tgo_loss, cached=True, backend="cpu")
    assert (kernel.implicit_score - truth.implicit_score).abs().max() < 1e-6
    assert (cached.implicit_score - truth.implicit_score).abs().max() < 1e-5
    assert (kernel.reference_error - truth.reference_error).abs().max() < 1e-8


def test_nan_and_infinity_are_not_hidden() -> None:
    for dtype in HALF_AND_SINGLE:
        for bad in (float("nan"), float("inf")):
            case = make_case((2, 40), dtype)
            with torch.no_grad():
                case.policy_pred[0, 33] = bad
            result = outcome(case, tgo_loss, backend="cpu")
            assert not result.loss.isfinite()
            assert not result.gradient[0, 33].isfinite()
            assert result.gradient[1].isfinite().all()
    case = make_case((2, 40), torch.float32)
    case.scores[1] = float("nan")
    assert outcome(case, tgo_loss, backend="cpu").loss.isnan()


def test_every_half_and_bfloat16_survives_the_kernel() -> None:
    """With a target of 0 and coefficient 1 the gradient is the prediction, rounded to itself."""
    for dtype in (torch.float16, torch.bfloat16):
        numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(1, -1)
        out = torch.ops.tglo.tgo_loss_backward(
            torch.ones(()),
            torch.ones(1, dtype=torch.float64),
            numbers,
            0 * numbers.nan_to_num(),
            None,
            1,
            1,
        )
        torch.testing.assert_close(out, numbers, rtol=0, atol=0, equal_nan=True)


def test_rounding_of_the_gradient_is_to_nearest_even() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        p = (torch.randn(1, 5000) * 10 ** torch.empty(1, 5000).uniform_(-8, 4)).to(dtype)
        for factor in (1 / 3, 1.0 + 2**-9, 7e4):
            out = torch.ops.tglo.tgo_loss_backward(
                torch.ones(()), torch.tensor([factor], dtype=torch.float64), p, 0 * p, None, 1, 1
            )
            expected = (torch.tensor(factor, dtype=torch.float32) * p.float()).to(dtype)
            assert torch.equal(out, expected)


def test_offsets_pass_32_bits() -> None:
    """More than 2^31 elements, for real: zero pages that are only read take no memory."""
    count = 2**30 + 8
    zeros = [
        torch.from_numpy(np.zeros((2, count), dtype=np.int16)).view(torch.bfloat16) for _ in "py"
    ]
    zeros[0][1, -1] = 2.0
    error = torch.ops.tglo.prediction_error(*zeros, None, 1, False)
    assert error.tolist() == [0.0, 4.0 / count]


BASELINE = """
import torch
from tests.csrc import test_loss_cpu as t
from tglo import ops
assert ops.EXTENSION.instructions == "baseline", ops.EXTENSION
for dtype in t.HALF_AND_SINGLE:
    for shape in t.SHAPES:
        t.check(t.make_case(shape, dtype))
t.test_every_half_and_bfloat16_survives_the_kernel()
t.test_rounding_of_the_gradient_is_to_nearest_even()
t.test_nan_and_infinity_are_not_hidden()
t.test_accuracy_that_training_needs()
"""


def test_baseline_instruction_set() -> None:
    """The kernels for CPUs without AVX2 are in the same binary; they get a process of their own."""
    environment = {**os.environ, "TGLO_CPU_INSTRUCTIONS": "baseline", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", BASELINE], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_reference_error_matches_the_formula() -> None:
    case = make_case((4, 100), torch.float32)
    kernel = outcome(case, tgo_loss, backend="cpu")
    truth = reference.prediction_error(case.reference_pred.double(), case.target.double())
    torch.testing.assert_close(kernel.reference_error, truth, rtol=1e-6, atol=0)
