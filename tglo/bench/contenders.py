"""What is measured: the loss as scripts write it, the same compiled, and every backend of tglo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import tglo
from tglo.bench.cases import CONFIDENCE, TEMPERATURE, THRESHOLD, Case, Outcome
from tglo.ops.choice import backends

Precision = Literal["model", "policy", "all"]
"""What is upcast to float32: nothing, the policy's prediction, everything."""


class Contender(NamedTuple):
    """One way to the gradient of the mean loss with respect to the policy's prediction."""

    forward: Callable[[Case], Tensor] | None
    """The loss with its graph; None where one launch gives loss and gradient."""
    step: Callable[[Case], Tensor]
    """Forward and backward: the gradient."""
    check: Callable[[Case], Outcome]
    """r and the gradient of the same code."""
    bytes_per_element: int
    """What must move at the least in 2-byte elements: each prediction once per launch."""
    ours: bool = False
    cached: str = ""
    """The backend that the reference's error was cached with; "" if its prediction is given."""

    def prepare(self, case: Case) -> Case:
        """With the error cached by the same backend, as a training run's own cache would be."""
        if not self.cached:
            return case
        error = tglo.prediction_error(case.base, case.target, backend=self.cached)
        return case._replace(base_error=error)

    @property
    def log_ratio_limit(self) -> float:
        """What abs(r - exact) may be at temperature 0.001; only ours are held to it."""
        return (1e-5 if self.cached else 1e-6) if self.ours else float("inf")


def gradient_limit(dtype: torch.dtype) -> float:
    """What our gradient may be off by, over its largest element: one rounding, and r's error."""
    return torch.finfo(dtype).eps + 1e-5


def gradient(loss: Tensor, case: Case) -> Tensor:
    """d loss / d policy, without accumulation into .grad."""
    return torch.autograd.grad(loss, case.policy)[0]


def eager_loss(precision: Precision) -> Callable[[Case], tuple[Tensor, Tensor]]:
    """Loss and r as Diffusion-DPO's script takes its errors: (prediction - target).pow(2).mean() in
    whatever dtype the predictions have, the reference's without a graph.
    """

    def loss(case: Case) -> tuple[Tensor, Tensor]:
        policy, base, target = case.policy, case.base, case.target
        if precision != "model":
            policy = policy.float()
        if precision == "all":
            base, target = base.float(), target.float()
        dims = tuple(range(1, policy.ndim))
        policy_error = (policy - target).pow(2).mean(dim=dims)
        with torch.no_grad():
            base_error = (base - target).pow(2).mean(dim=dims)
        r = (-1.0 / TEMPERATURE) * (policy_error - base_error)
        sign = 2.0 * (case.scores >= THRESHOLD).float() - 1.0
        weight = 1.0 + CONFIDENCE * (case.scores - THRESHOLD).abs()
        return (weight * functional.softplus(-sign * r)).mean(), r

    return loss


def _eager(precision: Precision, compiled: bool = False) -> Contender:
    loss = eager_loss(precision)
    if compiled:
        loss = torch.compile(loss, dynamic=False)

    def check(case: Case) -> Outcome:
        value, r = loss(case)
        return Outcome(r.detach(), gradient(value, case))

    return Contender(
        lambda case: loss(case)[0], lambda case: gradient(loss(case)[0], case), check, 12
    )


def _arguments(case: Case, cached: bool, backend: str) -> dict[str, Any]:
    known = {"reference_error": case.base_error} if cached else {"reference_pred": case.base}
    return {**known, "temperature": TEMPERATURE, "confidence": CONFIDENCE, "backend": backend}


def _autograd(backend: str, cached: bool) -> Contender:
    def loss(case: Case, **more: bool) -> Any:
        arguments = {**_arguments(case, cached, backend), **more}
        return tglo.tgo_loss(case.policy, case.target, case.scores, THRESHOLD, **arguments)

    def check(case: Case) -> Outcome:
        value, stats = loss(case, return_stats=True)
        return Outcome(stats.implicit_score, gradient(value, case))

    return Contender(
        loss,
        lambda case: gradient(loss(case), case),
        check,
        10 if cached else 12,
        True,
        backend if cached else "",
    )


def _one_launch(backend: str, cached: bool) -> Contender:
    def run(case: Case, **more: bool) -> Any:
        arguments = {**_arguments(case, cached, backend), **more}
        return tglo.loss_and_grad(case.policy, case.target, case.scores, THRESHOLD, **arguments)

    def check(case: Case) -> Outcome:
        _, found, stats = run(case, return_stats=True)
        return Outcome(stats.implicit_score, found)

    return Contender(
        None,
        lambda case: run(case)[1],
        check,
        6 if cached else 8,
        True,
        backend if cached else "",
    )


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "eager": lambda: _eager("model"),
    "eager fp32": lambda: _eager("all"),
    "torch.compile": lambda: _eager("model", compiled=True),
    "torch.compile fp32": lambda: _eager("all", compiled=True),
}
"""By name. Compiled ones are specialised to the first shape that they see."""

for _backend in ("reference", "cpu", "cuda", "triton"):
    for _label, _build in (("tglo", _autograd), ("tglo loss_and_grad", _one_launch)):
        for _cached in (False, True):
            if _backend == "reference" and (_cached or _build is _one_launch):
                continue  # it is the formula, not a competitor
            _name = f"{_label} {_backend}" + (", cached" if _cached else "")
            CONTENDERS[_name] = lambda b=_backend, c=_cached, build=_build: build(b, c)  # type: ignore[misc]


def available(device: torch.device, *, compiled: bool = True) -> list[str]:
    """Names of the contenders that can run on such a device here."""
    found = backends()
    usable = {"reference"} | ({"cpu"} if device.type == "cpu" else {"cuda", "triton"})
    return [
        name
        for name in CONTENDERS
        if (
            (backend := name.removesuffix(", cached").split()[-1]) in usable and not found[backend]
            if name.startswith("tglo")
            else compiled or not name.startswith("torch.compile")
        )
    ]
