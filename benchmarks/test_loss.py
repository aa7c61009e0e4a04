"""Forward and backward of the loss on the CPU, against the eager code that it replaces.

    pytest benchmarks -q --benchmark-json benchmarks/results/NAME.json

Each contender's r is first compared with float64: the error is part of the record. Times are of two
threads on a shared machine, so only their ratio within one run says anything.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional

from tglo import reference, tgo_loss
from tglo.ops import EXTENSION

BATCH, SHAPE = 8, (4, 128, 128)  # SDXL latents: 65,536 elements a sample
TEMPERATURE, THRESHOLD, CONFIDENCE = 1e-3, 0.5, 5.0

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def make_case() -> Case:
    """Trained-like bf16 inputs: the policy is close to its reference, mean abs(r) about 0.4."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(BATCH, *SHAPE, generator=generator)

    target = normal()
    base = target + 0.3 * normal()
    policy = (base + 0.02 * normal()).bfloat16().requires_grad_(True)
    return policy, base.bfloat16(), target.bfloat16(), torch.rand(BATCH, generator=generator)


def eager(dtype: torch.dtype | None) -> Callable[[Case], Tensor]:
    """The loss as preference-training scripts write it, in the model's dtype or in float32."""

    def loss(case: Case) -> Tensor:
        policy, base, target, scores = case
        if dtype is not None:
            policy, base, target = policy.to(dtype), base.to(dtype), target.to(dtype)
        policy_error = (policy - target).pow(2).mean(dim=(1, 2, 3))
        with torch.no_grad():
            reference_error = (base - target).pow(2).mean(dim=(1, 2, 3))
        r = -(policy_error - reference_error) / TEMPERATURE
        sign = 2.0 * (scores >= THRESHOLD) - 1.0
        weight = 1.0 + CONFIDENCE * (scores - THRESHOLD).abs()
        return (weight * functional.softplus(-sign * r)).mean()

    return loss


def fused(backend: str) -> Callable[[Case], Tensor]:
    def loss(case: Case) -> Tensor:
        policy, base, target, scores = case
        return tgo_loss(
            policy, target, scores, THRESHOLD, reference_pred=base, temperature=TEMPERATURE,
            backend=backend,
        )  # fmt: skip

    return loss


CONTENDERS: dict[str, Callable[[], Callable[[Case], Tensor]]] = {
    "eager bf16": lambda: eager(None),
    "eager fp32": lambda: eager(torch.float32),
    "torch.compile bf16": lambda: torch.compile(eager(None)),
    "torch.compile fp32": lambda: torch.compile(eager(torch.float32)),
    "tglo reference": lambda: fused("reference"),
    "tglo cpu": lambda: fused("cpu"),
}


@pytest.mark.parametrize("name", CONTENDERS)
def test_loss(name: str, benchmark: BenchmarkFixture) -> None:
    if name == "tglo cpu" and not EXTENSION.loaded:
        pytest.skip("the compiled extension is not installed")
    torch.set_num_threads(2)
    case = make_case()
    wide = [tensor.detach().double() for tensor in case]
    exact = reference.tgo_loss(
        wide[0], wide[2], wide[3], THRESHOLD, reference_pred=wide[1], temperature=TEMPERATURE
    ).loss.mean()
    loss = CONTENDERS[name]()

    def step() -> Tensor:
        case[0].grad = None
        value = loss(case)
        value.backward()
        return value

    error = abs(float(step().detach()) - float(exact)) / float(exact)
    # bf16 means are wrong by more than the signal: this is recorded, not asserted.
    if name != "eager bf16" and name != "torch.compile bf16":
        assert error < 1e-4, f"{name} is off by {error:.2g}"
    benchmark.extra_info["relative error of the loss"] = error
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["torch"] = torch.__version__
    benchmark.group = f"loss, forward and backward, {BATCH} x {SHAPE} bf16"
    benchmark.pedantic(step, rounds=200, warmup_rounds=20)
