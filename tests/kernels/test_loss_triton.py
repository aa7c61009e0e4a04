"""The Triton kernels without a GPU: interpreted against the formulas, and compiled for three GPUs.

Both happen in processes of their own: TRITON_INTERPRET is read when triton is imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def triton_version() -> tuple[int, ...]:
    """(3, 7) of 3.7.1; (0,) without triton."""
    try:
        return tuple(int(part) for part in metadata.version("triton").split(".")[:2])
    except metadata.PackageNotFoundError:
        return (0,)


INTERPRET = """
import torch
from tests.ops.loss_cases import make_case, make_masks, outcome, widened
from tglo import ops, tgo_loss
from tglo.ops import layout
from tglo.kernels import loss as kernels

kernels.BLOCK, kernels.STEPS, kernels.PARTS, kernels.SAMPLES = 64, 2, 2, 4  # many parts, few numbers

def run(case, cached, reduction, threshold=None, weight=None, sample_weight=None):
    options = case.options
    p, y, wide = case.policy_pred.detach(), case.target, torch.float64
    mask, inner = None, 1
    if "mask" in case.options:
        mask, inner = layout.memory_mask(case.options["mask"], p)
    over = options.get("mask_mean") == "elements"
    error = kernels.prediction_error(case.reference_pred, y, mask, inner, over) if cached else None
    q = None if cached else case.reference_pred
    tensors = p, y, q, error, case.scores, threshold, weight, sample_weight, mask
    numbers = (
        inner, over, case.threshold, 1.0, options.get("sample_weight", 1.0), options.get("beta", 1.0), 1e-3,
        options.get("confidence", 5.0), options["draws"],
        {"none": 0, "mean": 1, "sum": 2}[reduction])
    out = kernels.tgo_loss(*tensors, *numbers)
    outer = torch.linspace(-1, 2, out[0].numel()).view(out[0].shape)
    gradient = kernels.tgo_loss_backward(outer, out[1], p, y, mask, inner, options["draws"])
    together = kernels.tgo_loss_and_grad(*tensors, torch.tensor(2.0), 1.0, *numbers)
    both = kernels.tgo_loss_backward(torch.tensor(2.0), out[1], p, y, mask, inner, options["draws"])
    for a, b in zip(together, (*out, both)):
        assert torch.equal(a, b)
    rows, (loss, coefficient, statistics) = len(p), out
    ratio, *errors = statistics.split((len(case.scores), rows, rows))
    return (loss, ratio, coefficient, *errors), gradient, outer

for dtype in (torch.bfloat16, torch.float16, torch.float32):
    # one row, more rows than the finish takes at once, several draws; sizes off every block
    for shape, draws in (((1, 1), 1), ((5, 67), 1), ((2, 700), 1), ((6, 3, 43), 3)):
        for cached in (False, True):
            case = make_case(shape, dtype, draws=draws, beta=0.7)
            for reduction in ("none", "mean", "sum") if draws > 1 else ("mean",):
                (loss, ratio, _, error, other), gradient, outer = run(case, cached, reduction)
                truth = outcome(widened(case), tgo_loss, cached=cached, outer=outer,
                                reduction=reduction)
                unit = 2.0 ** -22 * (float(truth.policy_error.max()) if cached else 0.01) / 1e-3
                assert (ratio - truth.implicit_score).abs().max() <= unit, (shape, dtype, cached)
                torch.testing.assert_close(
                    loss.double(), truth.loss, rtol=1e-6, atol=6 * len(case.scores) * unit)
                torch.testing.assert_close(error, truth.policy_error, rtol=1e-6, atol=0)
                torch.testing.assert_close(other, truth.reference_error, rtol=1e-6, atol=1e-9)
                assert gradient.dtype == dtype
                # The interpreter cuts bfloat16 off where a GPU rounds: one unit, not half of one.
                eps = torch.finfo(dtype).eps + 10 * unit
                limit = eps * truth.gradient.abs().max().item()
                assert (gradient.double() - truth.gradient).abs().max() <= limit

shape = (4, 3, 5, 7)
for name, mask in make_masks(shape).items():
    for cached in (False, True):
        mean = "elements" if name in ("pixels", "columns", "rows") else "mask"
        case = make_case(shape, torch.float32, draws=2, mask=mask, mask_mean=mean)
        (loss, ratio, *_), gradient, outer = run(case, cached, "mean")
        truth = outcome(widened(case), tgo_loss, cached=cached, outer=outer)
        torch.testing.assert_close(ratio, truth.implicit_score, rtol=1e-5, atol=3e-4 if cached else 1e-6)
        torch.testing.assert_close(gradient.double(), truth.gradient, rtol=1e-3, atol=1e-5)
hidden = torch.ones(4, 1, 5, 7)
hidden[1], hidden[2, :, :2] = 0, 0
case = make_case(shape, torch.float32, mask=hidden)
clean = run(case, False, "mean")
with torch.no_grad():
    case.policy_pred[2, :, :2] = float("nan")
dirty = run(case, False, "mean")
assert clean[0][1][1] == 0 and not clean[1][1].any() and torch.equal(clean[1], dirty[1])
assert all(torch.equal(a, b) for a, b in zip(clean[0], dirty[0]))

case = make_case((4, 90), torch.float32)
weight = torch.rand(4, dtype=torch.float64)
threshold = torch.rand(4, dtype=torch.float64)
(loss, ratio, *_), _, _ = run(case, False, "mean", threshold, weight)
plain = outcome(case._replace(threshold=threshold, options={"timestep_weight": weight}), tgo_loss)
torch.testing.assert_close(loss, plain.loss, rtol=1e-5, atol=0)
torch.testing.assert_close(ratio, plain.implicit_score, rtol=1e-5, atol=1e-7)

# A weight of 0 hides a sample, NaN score and all; one number weighs every sample.
weight = torch.tensor([2.0, 0.0, 0.5, 1.0])
scores = case.scores.clone()
scores[1] = float("nan")
(loss, _, coefficient, *_), gradient, _ = run(case._replace(scores=scores), False, "none", None, None, weight)
(plain, _, per_row, *_), _, _ = run(case, False, "none")
torch.testing.assert_close(loss, plain * weight, rtol=1e-6, atol=0)
torch.testing.assert_close(coefficient, per_row * weight, rtol=1e-12, atol=0)
assert loss[1] == 0 and not gradient[1].any()
half = run(case._replace(options={**case.options, "sample_weight": 0.5}), False, "none")
torch.testing.assert_close(half[0][0], plain / 2, rtol=1e-6, atol=0)

# Ties are decided in float64, tails are finite, equal predictions give exactly zero.
tie = case._replace(scores=torch.tensor([0.5, 0.5, 0.5 - 1e-9, 0.5 + 1e-9], dtype=torch.float64))
assert ((run(tie, False, "none")[0][2]) > 0).tolist() == [True, True, False, True]
same = case._replace(reference_pred=case.policy_pred.detach().clone())
for cached in (False, True):
    assert run(same, cached, "mean")[0][1].tolist() == [0.0] * 4
huge = make_case((4, 90), torch.float32, distance=0.1, beta=1000.0)
out, gradient, _ = run(huge, False, "none")
assert out[1].abs().max() > 1e3 and out[0].isfinite().all() and gradient.isfinite().all()
truth = outcome(widened(huge), tgo_loss, reduction="none", outer=torch.ones(4))
torch.testing.assert_close(out[0].double(), truth.loss, rtol=1e-5, atol=1e-30)

# Empty batch; the same bits twice; poisoned output memory is overwritten.
empty = make_case((0, 5), torch.float32)
assert kernels.prediction_error(empty.policy_pred.detach(), empty.target, None, 1, False).shape == (0,)
first, second = run(case, False, "mean"), run(case, False, "mean")
real = torch.empty
torch.empty = lambda *a, **k: real(*a, **k).fill_(float("nan"))
poisoned = run(case, False, "mean")
torch.empty = real
for other in (second, poisoned):
    assert all(torch.equal(a, b) for a, b in zip(first[0], other[0]))
    assert torch.equal(first[1], other[1])
print("PASSED")
"""

COMPILE = """
import json
from tests.kernels import triton_usage
from tglo.kernels import loss as kernels, loss_kernels

wide = ("cached_error scores threshold timestep_weight sample_weight partials implicit_score coefficient policy_error "
        "reference_error").split()
blocks = dict(BLOCK=kernels.BLOCK, STEPS=kernels.STEPS)

def usage(kernel, element, capability, constants, options):
    types = {"P": "*" + element, "Q": "*" + element, "Y": "*" + element, "gradient": "*" + element,
             "counter": "*i32", "loss": "*fp32", "grad_loss": "*fp32", "weights": "*fp32",
             **{name: "*fp64" for name in wide}}
    aligned = ("elements",)
    return triton_usage.usage(kernel, element, capability, types, constants, options, aligned)

forward = dict(num_warps=kernels.WARPS, maxnreg=kernels.REGISTERS)
for capability in (80, 90, 100):
    for element, variants in (
        ("bf16", ((False, True, False), (True, True, True), (False, False, True))),
        ("fp16", ((False, True, False),)),
        ("fp32", ((False, True, True), (True, False, False))),
    ):
        for cached, reduced, tensors in variants:
            constants = dict(blocks, SAMPLES=kernels.SAMPLES, PARTS=kernels.PARTS, REDUCED=reduced)
            constants["Q" if cached else "cached_error"] = None
            constants["BY_MASK"] = tensors
            if not tensors:  # the mask goes with the tensors
                constants.update(threshold=None, timestep_weight=None, sample_weight=None, weights=None)
            print(json.dumps(usage(loss_kernels.forward, element, capability, constants, forward)))
        options = dict(num_warps=kernels.WARPS)
        for constants in (dict(blocks, weights=None), blocks):
            print(json.dumps(usage(loss_kernels.backward, element, capability, constants, options)))
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


@pytest.mark.skipif(
    triton_version() < (3, 7), reason="this triton's interpreter does not work with numpy 2.4"
)
def test_interpreted_values_and_gradients() -> None:
    done = run_python(INTERPRET, TRITON_INTERPRET="1")
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stderr


def test_compiles_for_three_architectures_without_spills() -> None:
    done = run_python(COMPILE, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr
    usage = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(usage) == 3 * (6 + 6)
    for kernel in usage:
        assert kernel["stack"] == 0 and kernel["local"] == 0, kernel
        assert kernel["wide_loads"] >= 2 and kernel["float_atomics"] == 0, kernel


OWN_MEMORY = """
import threading
import torch
from tglo.kernels import loss as kernels

threads = []

def make():
    threads.append(threading.get_ident())
    return torch.zeros(1)

assert kernels._from_another_thread(make).item() == 0
assert threads != [threading.get_ident()]
print("PASSED")
"""


def test_counters_that_outlive_a_call_are_made_in_another_thread() -> None:
    """A CUDA graph's pool, which refuses them, is given to the calling thread."""
    done = run_python(OWN_MEMORY, TRITON_INTERPRET="1")
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stderr
