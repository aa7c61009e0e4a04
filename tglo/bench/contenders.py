"""The contenders: the loss as scripts write it, the same compiled, and every backend of tglo."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import tglo
from tglo.bench.cases import CONFIDENCE, TEMPERATURE, THRESHOLD, Case, Errors, LossOutcome, errors
from tglo.bench.record import attempt
from tglo.ops.choice import backends

Precision = Literal["model", "policy", "all"]
"""The predictions that are upcast to float32: none, the policy's, all."""


class Contender(NamedTuple):
    """One way to the gradient of the mean loss with respect to the policy's prediction."""

    forward: Callable[[Case], Tensor] | None
    """The loss with its graph; None where one launch gives loss and gradient."""
    step: Callable[[Case], Tensor]
    """Forward and backward: the gradient."""
    check: Callable[[Case], LossOutcome]
    """r and the gradient of the same code."""
    bytes_per_element: int
    """The least that must move, in 2-byte elements: each prediction once per launch."""
    ours: bool = False
    cached: str = ""
    """The backend that the reference's error was cached with; "" if its prediction is given."""

    def prepare(self, case: Case) -> Case:
        """Cache the error by the same backend, as a training run would."""
        if not self.cached:
            return case
        error = tglo.prediction_error(case.base, case.target, backend=self.cached)
        return case._replace(base_error=error)

    @property
    def log_ratio_limit(self) -> float:
        """The largest abs(r - exact) allowed at temperature 0.001; only ours are held to it."""
        return (1e-5 if self.cached else 1e-6) if self.ours else float("inf")


def gradient_limit(dtype: torch.dtype) -> float:
    """Return the error allowed to our gradient, over its largest element: one rounding, and r's error."""
    return torch.finfo(dtype).eps + 1e-5


def gradient(loss: Tensor, case: Case) -> Tensor:
    """Compute d loss / d policy, without accumulation into .grad."""
    return torch.autograd.grad(loss, case.policy)[0]


def eager_tgo(log_ratio: Tensor, scores: Tensor) -> Tensor:
    """Compute the mean loss of log-ratios and scores (B,) as a script writes it."""
    sign = 2.0 * (scores >= THRESHOLD).float() - 1.0
    weight = 1.0 + CONFIDENCE * (scores - THRESHOLD).abs()
    return (weight * functional.softplus(-sign * log_ratio)).mean()


def eager(precision: Precision, compiled: bool = False) -> Contender:
    """The loss as Diffusion-DPO's script takes its errors: (prediction - target).pow(2).mean() in
    whatever dtype the predictions have, the reference's without a graph.
    """

    def loss_and_r(case: Case) -> tuple[Tensor, Tensor]:
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
        return eager_tgo(r, case.scores), r

    loss = torch.compile(loss_and_r, dynamic=False) if compiled else loss_and_r

    def check(case: Case) -> LossOutcome:
        value, r = loss(case)
        return LossOutcome(r.detach(), gradient(value, case))

    return Contender(
        lambda case: loss(case)[0], lambda case: gradient(loss(case)[0], case), check, 12
    )


def _tglo(backend: str, cached: bool, one_launch: bool) -> Contender:
    """tglo's loss with autograd, or by `loss_and_grad`, whose kernels read each tensor once."""
    call: Callable[..., Any] = tglo.loss_and_grad if one_launch else tglo.tgo_loss

    def run(case: Case, return_stats: bool = False) -> Any:
        known = {"reference_error": case.base_error} if cached else {"reference_pred": case.base}
        return call(
            case.policy,
            case.target,
            case.scores,
            THRESHOLD,
            temperature=TEMPERATURE,
            confidence=CONFIDENCE,
            backend=backend,
            return_stats=return_stats,
            **known,
        )

    def step(case: Case) -> Tensor:
        return run(case)[1] if one_launch else gradient(run(case), case)

    def check(case: Case) -> LossOutcome:
        loss, *found, stats = run(case, return_stats=True)
        return LossOutcome(stats.implicit_score, found[0] if one_launch else gradient(loss, case))

    moved = (6 if one_launch else 10) if cached else (8 if one_launch else 12)
    return Contender(
        None if one_launch else run, step, check, moved, True, backend if cached else ""
    )


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "eager": lambda: eager("model"),
    "eager fp32": lambda: eager("all"),
    "torch.compile": lambda: eager("model", compiled=True),
    "torch.compile fp32": lambda: eager("all", compiled=True),
}
"""By name. Compiled ones are specialised to the first shape that they see."""

for _backend in ("reference", "cpu", "cuda", "triton"):
    for _one_launch, _label in enumerate(("tglo", "tglo loss_and_grad")):
        for _cached in (False, True):
            if _backend == "reference" and (_cached or _one_launch):
                continue  # it is the formula, not a competitor
            _name = f"{_label} {_backend}" + (", cached" if _cached else "")
            CONTENDERS[_name] = partial(_tglo, _backend, _cached, bool(_one_launch))


def available(device: torch.device, *, compiled: bool = True) -> list[str]:
    """List the contenders that can run on such a device here."""
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


class Checked(NamedTuple):
    """A contender whose result has been compared."""

    contender: Contender
    case: Case  # as the contender takes it
    errors: Errors | None  # None if it raised
    problem: str | None  # why it must not be timed; None if it may


def checked(contender: Contender, case: Case, exact: LossOutcome) -> Checked:
    """Compare a contender's result with float64. Only ours have limits."""

    def run() -> tuple[Case, Errors]:
        mine = contender.prepare(case)
        return mine, errors(contender.check(mine), exact)

    result, problem = attempt(run)
    if result is None:
        return Checked(contender, case, None, problem)
    case, found = result
    limits = Errors(contender.log_ratio_limit, gradient_limit(case.policy.dtype))
    for what, value, limit in zip(Errors._fields, found, limits, strict=True):
        if contender.ours and not value <= limit:
            problem = f"the {what} is off by {value:.2g}, more than {limit:.2g}"
            return Checked(contender, case, found, problem)
    return Checked(contender, case, found, None)
