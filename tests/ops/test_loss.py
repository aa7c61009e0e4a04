"""Operators, backend choice, torch.compile, second derivatives, and import cost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import preloaded
from tests.ops.loss_cases import HALF_AND_SINGLE, make_case, make_masks, outcome, widened
from tglo import ops, tgo_loss
from tglo.ops import choice

needs_extension = pytest.mark.skipif(
    not ops.EXTENSION.loaded, reason=f"no CPU kernels: {ops.EXTENSION.problem}"
)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds what this one finds."""
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


@needs_extension
@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_choice_by_device_and_dtype(dtype: torch.dtype) -> None:
    for op in ops.OPERATORS:
        assert ops.backend_for(op, "cpu", dtype) == "cpu"
        assert ops.backend_for(op, torch.device("cpu"), torch.float64) == "reference"
        assert ops.backend_for(op, "meta", dtype) == "reference"
        assert ops.backend_for(op, "cpu", dtype, "reference") == "reference"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="backend is 'gpu'; use one of 'auto'"):
        ops.backend_for("tgo_loss", "cpu", torch.float32, "gpu")
    with pytest.raises(ValueError, match="operator is 'tgo'"):
        ops.backend_for("tgo", "cpu", torch.float32)
    with pytest.raises(ValueError, match="backend is 'gpu'"):
        make_case((2, 2), torch.float32).call(tgo_loss, backend="gpu")


def test_a_backend_that_cannot_run_is_refused_with_the_reason() -> None:
    for name in ("cuda", "triton"):
        with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run tgo_loss: .*use"):
            make_case((2, 2), torch.float32).call(tgo_loss, backend=name)


@needs_extension
def test_cpu_kernels_refuse_float64_and_other_devices() -> None:
    with pytest.raises(RuntimeError, match=r"these are torch\.float64"):
        ops.backend_for("tgo_loss", "cpu", torch.float64, "cpu")
    with pytest.raises(RuntimeError, match="it takes cpu tensors, these are on cuda"):
        ops.backend_for("tgo_loss", "cuda", torch.float32, "cpu")


def test_environment_variable_takes_the_place_of_auto() -> None:
    code = """
import torch
from tglo import ops
print(ops.backend_for("tgo_loss", "cpu", torch.float32))
print(ops.backend_for("tgo_loss", "cpu", torch.float32, "reference"))
"""

    def run(value: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TGLO_BACKEND": value}
        command = [sys.executable, "-c", code]
        return preloaded.run(command, capture_output=True, text=True, env=environment)

    assert run("reference").stdout.split() == ["reference", "reference"]
    wrong = run("gpu")
    assert wrong.returncode != 0 and "TGLO_BACKEND is 'gpu'; set it to" in wrong.stderr
    empty, auto = (run(value).stdout for value in ("", "auto"))
    assert empty == auto and auto.split()[1] == "reference"
    absent = run("cuda").stderr
    assert "TGLO_BACKEND that asks for it: unset" in absent and "use backend='auto'" not in absent


def test_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    case = make_case((2, 2), torch.float32)
    choice._announced.clear()
    choice._chosen.clear()
    with caplog.at_level(logging.INFO, logger="tglo"):
        case.call(tgo_loss)
        case.call(tgo_loss)
    chosen = ops.backend_for("tgo_loss", "cpu", torch.float32)
    lines = [r.getMessage() for r in caplog.records if "tgo_loss on cpu" in r.getMessage()]
    assert len(lines) == 1 and f"backend {chosen}" in lines[0]


WITHOUT = """
import importlib.util, torch
real = importlib.util.find_spec
class Spec:
    origin = {origin!r}
importlib.util.find_spec = lambda name, *a: (
    (Spec if Spec.origin else None) if name == "tglo._C" else real(name, *a)
)
from tglo import doctor, ops, tgo_loss
p = torch.ones(2, 3, requires_grad=True)
arguments = (p, torch.zeros(2, 3), torch.tensor([0.0, 1.0]), 0.5)
loss = tgo_loss(*arguments, reference_error=torch.ones(2))
loss.backward()
tgo_loss(*arguments, reference_error=torch.ones(2))
compiled = torch.ops.tglo.prediction_error
try:
    tgo_loss(*arguments, reference_error=torch.ones(2), backend="cpu")
except RuntimeError as error:
    print("REFUSED", error)
doctor.print_report()
"""


@pytest.mark.parametrize("kind", ["missing", "broken"])
def test_without_extension_everything_works_and_says_so(kind: str, tmp_path: Path) -> None:
    broken = tmp_path / "_C.so"
    broken.write_bytes(b"not a library")
    done = run_python(WITHOUT.format(origin=str(broken) if kind == "broken" else ""))
    assert done.returncode == 0, done.stderr
    reason = "was not built" if kind == "missing" else "does not load"
    warnings = [line for line in done.stderr.splitlines() if "backend reference, because" in line]
    assert len(warnings) == 1
    assert reason in warnings[0] and "pip install" in warnings[0]
    assert "REFUSED backend 'cpu' cannot run tgo_loss" in done.stdout
    assert f"{reason}" in done.stdout and "runs on plain PyTorch" in done.stdout


@needs_extension
@pytest.mark.parametrize("cached", [False, True])
def test_opcheck(cached: bool) -> None:
    case = make_case((6, 3, 5), torch.bfloat16, draws=2)
    policy, wide = case.policy_pred.detach(), torch.float64
    error = torch.rand(6, dtype=wide) if cached else None
    other = None if cached else case.reference_pred
    weight = torch.rand(6, dtype=wide) if cached else None
    threshold = torch.tensor(0.4, dtype=wide) if cached else None
    mask = torch.rand(6, 5) if cached else None
    scale = torch.tensor(3.0, dtype=wide) if cached else None
    sample_weight = torch.rand(3) if cached else None
    for reduction in (0, 1, 2):
        vectors = error, case.scores.double(), threshold, weight, sample_weight
        tensors = policy, case.target, other, *vectors, mask
        numbers = (1, cached, 0.5, 1.0, 1.0, 1.0, 1e-3, 5.0, 2, reduction)
        torch.library.opcheck(torch.ops.tglo.tgo_loss.default, (*tensors, *numbers))
        arguments = (*tensors, scale, 2.0, *numbers)
        torch.library.opcheck(torch.ops.tglo.tgo_loss_and_grad.default, arguments)
        outer = torch.rand(3) if reduction == 0 else torch.rand(())
        coefficient = torch.rand(6, dtype=wide)
        backward = (outer, coefficient, policy, case.target, mask, 1, 2)
        torch.library.opcheck(torch.ops.tglo.tgo_loss_backward.default, backward)
        rescale = (torch.rand_like(policy), 2.0, torch.rand(()), *backward[1:])
        torch.library.opcheck(torch.ops.tglo.tgo_loss_rescale_.default, rescale)
    arguments = policy, case.target, mask, 1, cached
    torch.library.opcheck(torch.ops.tglo.prediction_error.default, arguments)


@needs_extension
def test_kernels_refuse_what_they_would_misread() -> None:
    """The operators themselves check what `tglo.losses` guarantees."""
    p = torch.zeros(4, 6)
    error = torch.ops.tglo.prediction_error
    for other, reason in (
        (torch.zeros(4, 5), "one shape"),
        (torch.zeros(6, 4).T, "layout"),
        (torch.zeros(4, 6, dtype=torch.bfloat16), "dtype"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            error(p, other, None, 1, False)
    with pytest.raises(RuntimeError, match="dense"):
        error(torch.zeros(4, 12)[:, ::2], torch.zeros(4, 12)[:, ::2], None, 1, False)
    with pytest.raises(RuntimeError, match="bfloat16, float16 or float32"):
        error(p.double(), p.double(), None, 1, False)
    scores = torch.zeros(3, dtype=torch.float64)
    where = "on the predictions' device"
    with pytest.raises(
        RuntimeError, match=f"scores must be float32 or float64 {where} with 4 elements"
    ):
        nothing = None, None, None, None
        torch.ops.tglo.tgo_loss(p, p, p, None, scores, *nothing, 1, False, 0, 1, 1, 1, 1, 1, 1, 1)
    for mask in (torch.ones(4, 5), torch.ones(3, 6), torch.ones(4, 12)[:, ::2], torch.ones(6)):
        with pytest.raises(RuntimeError, match="mask must be contiguous float32 of shape"):
            error(p, p, mask, 1, False)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cached", [False, True])
def test_compiles_as_one_graph(backend: str, cached: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(tgo_loss, fullgraph=True, backend="aot_eager")
    for size in (4, 6):  # the second batch size is compiled as a dynamic one
        case = make_case((size, 3, 5), torch.bfloat16, draws=2, weighted=True)
        plain = outcome(case, tgo_loss, backend=backend, cached=cached)
        result = outcome(case, compiled, backend=backend, cached=cached)
        for a, b in zip(result, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@needs_extension
def test_compiles_with_inductor_around_it() -> None:
    """Layout and dtype of what inductor hands to the operators."""
    torch._dynamo.reset()
    case = make_case((4, 3, 4, 5), torch.bfloat16)
    with torch.no_grad():
        case.policy_pred.copy_(case.target)

    def step(policy: torch.Tensor) -> torch.Tensor:
        image = (policy * 1.5).to(memory_format=torch.channels_last)
        return tgo_loss(image, case.target, case.scores, 0.5, reference_pred=case.reference_pred)

    plain = step(case.policy_pred)
    (expected,) = torch.autograd.grad(plain, case.policy_pred)
    loss = torch.compile(step, fullgraph=True)(case.policy_pred)
    (gradient,) = torch.autograd.grad(loss, case.policy_pred)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=0.02, atol=1e-3)


@needs_extension
def test_second_derivative_raises() -> None:
    case = make_case((3, 4), torch.float32)
    loss = case.call(tgo_loss, backend="cpu")
    (gradient,) = torch.autograd.grad(loss, case.policy_pred, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; backend='reference'"):
        (gradient.square().sum() + case.policy_pred.sum()).backward()


def test_reference_backend_has_a_second_derivative() -> None:
    case = make_case((3, 4), torch.float64)

    def loss(policy: torch.Tensor) -> torch.Tensor:
        return case._replace(policy_pred=policy).call(tgo_loss, backend="reference", beta=0.01)

    assert torch.autograd.gradgradcheck(loss, (case.policy_pred,))


@needs_extension
def test_policy_without_gradient_and_unused_loss() -> None:
    case = make_case((3, 4), torch.float32)
    frozen = case._replace(policy_pred=case.policy_pred.detach())
    assert not frozen.call(tgo_loss).requires_grad
    with torch.no_grad():
        assert not case.call(tgo_loss).requires_grad


def test_import_is_lazy_and_cheap() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import tglo
loaded = {m.split(".")[0] for m in set(sys.modules) - before}
assert loaded <= {"tglo"}, loaded
assert sorted(m for m in sys.modules if m.startswith("tglo")) == ["tglo"]
tglo.tgo_loss
heavy = {"diffusers", "deepspeed", "triton", "transformers", "peft", "tyro", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "tgo_loss" in dir(tglo) and tglo.__version__
try:
    tglo.nothing
except AttributeError as error:
    print(error)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "has no attribute 'nothing'" in done.stdout


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_sample_weights_scale_losses_and_gradients(backend: str, reduction: str) -> None:
    case = make_case((6, 40), torch.float32, draws=2, reduction=reduction)
    weight = torch.tensor([0.5, 0.0, 3.0])
    unscored = case.scores.clone()
    unscored[1] = float("nan")  # not looked at under a weight of 0
    outer = None if reduction != "none" else torch.ones(3)
    plain = outcome(case, tgo_loss, backend=backend, reduction="none", outer=torch.ones(3))
    gradient = plain.gradient * weight.repeat_interleave(2)[:, None]
    losses = plain.loss * weight
    share = 1 / 3 if reduction == "mean" else 1.0
    options = {"backend": backend, "sample_weight": weight}
    found = outcome(case._replace(scores=unscored), tgo_loss, outer=outer, **options)
    expected = losses if reduction == "none" else losses.sum() * share
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.gradient, gradient * share)
    assert not found.gradient[2:4].any()
    with torch.no_grad():  # a number hides as a tensor does
        wild = case._replace(target=torch.full_like(case.target, float("nan")))
        nothing = wild.call(tgo_loss, **{**options, "sample_weight": 0.0})
    assert not nothing.any()
    half = outcome(case, tgo_loss, outer=outer, **{**options, "sample_weight": 0.5})
    whole = plain.loss if reduction == "none" else plain.loss.sum() * share
    torch.testing.assert_close(half.loss, whole / 2)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("cached", [False, True])
def test_the_mean_may_divide_by_all_elements(backend: str, cached: bool) -> None:
    """As kohya, SimpleTuner and diffusion-pipe do: squares times mask, then the mean."""
    mask = make_masks((4, 3, 5, 6))["weighted pixels"]
    case = make_case((4, 3, 5, 6), torch.float32, mask=mask, mask_mean="elements")
    p, y = case.policy_pred.detach().double(), case.target.double()
    found = outcome(case, tgo_loss, backend=backend, cached=cached)
    expected = (mask.double() * (p - y).square()).flatten(1).mean(1)
    torch.testing.assert_close(found.policy_error, expected, rtol=1e-6, atol=0)
    truth = outcome(widened(case), tgo_loss, cached=cached)
    torch.testing.assert_close(found.loss.double(), truth.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.gradient.double(), truth.gradient, rtol=1e-4, atol=1e-6)
