"""The differentiable log-ratio and policy error: values and gradients equal the float64 formulas."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import HALF_AND_SINGLE, Case, make_case, make_masks, widened
from tglo import log_ratio, ops, policy_error, prediction_error, reference, sft_loss

BACKENDS = [name for name in ("reference", "cpu") if not ops.backends()[name]]


def ratio_of(case: Case, *, cached: bool, **more: Any) -> Tensor:
    options = {k: v for k, v in case.options.items() if k not in ("beta", "confidence")} | more
    if cached:
        wide = case.reference_pred.double(), case.target.double()
        options["reference_error"] = reference.prediction_error(*wide, options.get("mask"))
    else:
        options["reference_pred"] = case.reference_pred
    return log_ratio(case.policy_pred, case.target, **options)


def value_and_gradient(value: Tensor, policy_pred: Tensor) -> tuple[Tensor, Tensor]:
    outer = torch.linspace(-1, 2, value.numel(), dtype=value.dtype, device=value.device)
    outer = outer.view(value.shape)
    (gradient,) = torch.autograd.grad(value, policy_pred, outer)
    return value.detach(), gradient


def truth_of(case: Case, temperature: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Autograd through the float64 formula, errors as two plain means."""
    p, q, y = (x.detach().double() for x in (case.policy_pred, case.reference_pred, case.target))
    p.requires_grad_()
    mask = torch.ones_like(p) * case.options.get("mask", 1.0)
    rows = [1 - p.ndim + d for d in range(p.ndim - 1)]
    weight = mask.sum(rows)

    def error(x: Tensor) -> Tensor:
        return (mask * (x - y) ** 2).sum(rows) / weight

    omega = case.options.get("timestep_weight", torch.tensor(1.0)).double()
    per_draw = -(omega / temperature) * (error(p) - error(q))
    return value_and_gradient(per_draw.view(-1, case.options["draws"]).mean(1), p)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("dtype", [*HALF_AND_SINGLE, torch.float64])
def test_log_ratio_is_the_float64_formula(dtype: torch.dtype, cached: bool, backend: str) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("kernels take up to float32")
    for shape, draws in (((1, 7), 1), ((6, 3, 5, 7), 3), ((4, 16, 130), 2)):
        case = make_case(shape, dtype, draws=draws, weighted=True)
        ratio = ratio_of(case, cached=cached, backend=backend)
        assert ratio.dtype == torch.float64 and ratio.shape == (shape[0] // draws,)
        value, gradient = value_and_gradient(ratio, case.policy_pred)
        expected, slope = truth_of(case)
        # Cached, two means of about 0.09 / T are subtracted, each summed in float32.
        torch.testing.assert_close(value, expected, rtol=2e-6, atol=2e-4 if cached else 1e-6)
        assert gradient.dtype == dtype
        tolerance = {torch.bfloat16: 4e-3, torch.float16: 5e-4}.get(dtype, 1e-6)
        torch.testing.assert_close(gradient.double(), slope, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", make_masks((4, 3, 5, 6)))
def test_masks(name: str, backend: str) -> None:
    mask = make_masks((4, 3, 5, 6))[name]
    case = make_case((4, 3, 5, 6), torch.float32, draws=2, mask=mask)
    ratio = ratio_of(case, cached=False, backend=backend)
    value, gradient = value_and_gradient(ratio, case.policy_pred)
    expected, slope = truth_of(case)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-6)

    error = policy_error(case.policy_pred, case.target, mask, backend=backend)
    wide = widened(case)
    truth = reference.prediction_error(wide.policy_pred, wide.target, mask)
    for a, b in zip(
        value_and_gradient(error, case.policy_pred),
        value_and_gradient(truth, wide.policy_pred),
        strict=True,
    ):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_whose_mask_is_empty_counts_for_nothing(backend: str) -> None:
    mask = torch.ones(4, 1, 6)
    mask[1] = 0
    case = make_case((4, 3, 6), torch.float32, mask=mask)
    case.target[1] = float("nan")
    ratio = ratio_of(case, cached=False, backend=backend)
    _, gradient = value_and_gradient(ratio, case.policy_pred)
    assert ratio[1] == 0 and not gradient[1].any() and gradient[0].all()
    error = policy_error(case.policy_pred, case.target, mask, backend=backend)
    assert error[1] == 0 and not value_and_gradient(error, case.policy_pred)[1][1].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_predictions_give_exactly_zero(backend: str) -> None:
    case = make_case((3, 40), torch.bfloat16, distance=0.0)
    assert not ratio_of(case, cached=False, backend=backend).any()
    stored = prediction_error(case.policy_pred, case.target, backend=backend)
    options = {"reference_error": stored, "backend": backend}
    assert not log_ratio(case.policy_pred, case.target, **options).any()


def test_strided_inputs_and_errors_beside_the_ratio() -> None:
    case = make_case((4, 3, 8, 6), torch.float32)
    last = case._replace(
        policy_pred=case.policy_pred.detach().to(memory_format=torch.channels_last).requires_grad_()
    )
    options = {"reference_pred": case.reference_pred, "return_errors": True}
    plain = log_ratio(case.policy_pred, case.target, **options)
    other = log_ratio(last.policy_pred, case.target, **options)
    torch.testing.assert_close(plain.log_ratio, other.log_ratio)
    torch.testing.assert_close(
        value_and_gradient(plain.log_ratio, case.policy_pred)[1],
        value_and_gradient(other.log_ratio, last.policy_pred)[1],
    )
    assert not plain.policy_error.requires_grad and not plain.reference_error.requires_grad
    assert torch.equal(plain.policy_error, prediction_error(case.policy_pred, case.target))
    expected = prediction_error(case.reference_pred, case.target)
    torch.testing.assert_close(plain.reference_error, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_compiles_to_one_graph(backend: str, masked: bool) -> None:
    options = {"mask": make_masks((4, 3, 5, 6))["pixels"]} if masked else {}
    case = make_case((4, 3, 5, 6), torch.float32, draws=2, weighted=True, **options)

    def both(case: Case) -> Tensor:
        ratio = ratio_of(case, cached=False, backend=backend)
        error = policy_error(
            case.policy_pred, case.target, case.options.get("mask"), backend=backend
        )
        return (ratio.sigmoid() + error.view(-1, 2).mean(1)).sum()

    eager = value_and_gradient(both(case), case.policy_pred)
    compiled = torch.compile(both, fullgraph=True)(case)
    for a, b in zip(value_and_gradient(compiled, case.policy_pred), eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_second_derivative_raises_with_kernels_only() -> None:
    case = make_case((2, 8), torch.float32)
    for backend in BACKENDS:
        ratio = ratio_of(case, cached=False, backend=backend)
        (gradient,) = torch.autograd.grad(ratio.sum(), case.policy_pred, create_graph=True)
        if backend == "reference":
            gradient.sum().backward()
            continue
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.sum().backward()


def test_wrong_arguments_are_named() -> None:
    case = make_case((4, 8), torch.float32)
    p, y, q = case.policy_pred, case.target, case.reference_pred
    with pytest.raises(ValueError, match="neither of reference_pred and reference_error"):
        log_ratio(p, y)
    with pytest.raises(ValueError, match="temperature is 0"):
        log_ratio(p, y, reference_pred=q, temperature=0.0)
    with pytest.raises(ValueError, match="4 rows do not divide"):
        log_ratio(p, y, reference_pred=q, draws=3)
    with pytest.raises(ValueError, match=r"target has shape \(4, 7\)"):
        policy_error(p, y[:, :7])


def test_sft_goes_through_the_kernels() -> None:
    case = make_case((4, 33), torch.float32)
    results = []
    for backend in BACKENDS:
        loss = sft_loss(case.policy_pred, case.target, case.scores, 0.5, backend=backend)
        results.append(value_and_gradient(loss, case.policy_pred))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


INTERPRET = """
import torch
from tests.losses.test_log_ratio import ratio_of, truth_of, value_and_gradient
from tests.ops.loss_cases import make_case, make_masks, widened
from tglo import ops, policy_error, reference
from tglo.kernels import loss as kernels

kernels.BLOCK, kernels.STEPS, kernels.PARTS, kernels.SAMPLES = 64, 2, 2, 4
ops.choose = lambda *_: "triton"
ops.operator = lambda name, triton: getattr(kernels, name)
mask = make_masks((4, 3, 5, 6))["weighted pixels"]
for options in ({}, {"mask": mask}):
    case = make_case((4, 3, 5, 6), torch.float32, draws=2, weighted=True, **options)
    found = value_and_gradient(ratio_of(case, cached=False), case.policy_pred)
    for a, b in zip(found, truth_of(case)):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
    error = policy_error(case.policy_pred, case.target, options.get("mask"))
    wide = widened(case)
    truth = reference.prediction_error(wide.policy_pred, wide.target, options.get("mask"))
    pairs = zip(value_and_gradient(error, case.policy_pred), value_and_gradient(truth, wide.policy_pred))
    for a, b in pairs:
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-7)
print("equal")
"""


def test_triton_interpreted() -> None:
    pytest.importorskip("triton")
    path = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", INTERPRET], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0 and "equal" in result.stdout, result.stderr[-2000:]
