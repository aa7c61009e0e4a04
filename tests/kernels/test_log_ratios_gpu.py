"""The differentiable log-ratio and policy error on a CUDA device; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.test_loss_gpu import KERNELS, runnable, to_device  # noqa: F401  (a fixture)
from tests.losses.test_log_ratio import ratio_of, truth_of, value_and_gradient
from tests.ops.loss_cases import HALF_AND_SINGLE, make_case, make_masks, widened
from tglo import policy_error, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_small_values_and_gradients(dtype: torch.dtype, masked: bool, backend: str) -> None:
    options = {"mask": make_masks((4, 3, 5, 6))["pixels"]} if masked else {}
    case = make_case((4, 3, 5, 6), dtype, draws=2, weighted=True, **options)
    there = to_device(case)
    tolerance = {torch.bfloat16: 4e-3, torch.float16: 5e-4}.get(dtype, 1e-5)
    ratio = ratio_of(there, cached=False, backend=backend)
    value, gradient = value_and_gradient(ratio, there.policy_pred)
    expected, slope = truth_of(case)
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double().cpu(), slope, rtol=tolerance, atol=1e-6)

    mask = there.options.get("mask")
    error = policy_error(there.policy_pred, there.target, mask, backend=backend)
    value, gradient = value_and_gradient(error, there.policy_pred)
    wide = widened(case)
    truth = reference.prediction_error(wide.policy_pred, wide.target, case.options.get("mask"))
    expected, slope = value_and_gradient(truth, wide.policy_pred)
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient.double().cpu(), slope, rtol=tolerance, atol=1e-6)
