"""Inputs on which every implementation of the continuous loss is tried, and the float64 truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tglo import TGOStats, reference, tgo_loss

HALF_AND_SINGLE = (torch.bfloat16, torch.float16, torch.float32)


class Case(NamedTuple):
    """policy_pred, target, reference_pred (rows, ...); scores (rows / draws,); other arguments."""

    policy_pred: Tensor
    target: Tensor
    reference_pred: Tensor
    scores: Tensor
    threshold: float
    options: dict[str, Any]

    def call(self, loss: Any, *, cached: bool = False, **more: Any) -> Any:
        """Call a function with the signature of `tglo.tgo_loss`."""
        options = {**self.options, **more}
        if cached:
            wide = self.reference_pred.double(), self.target.double()
            masked = options.get("mask"), options.get("mask_mean", "mask")
            options["reference_error"] = reference.prediction_error(*wide, *masked)
        else:
            options["reference_pred"] = self.reference_pred
        return loss(self.policy_pred, self.target, self.scores, self.threshold, **options)


def make_case(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    draws: int = 1,
    distance: float = 1e-3,
    weighted: bool = False,
    seed: int = 0,
    **options: Any,
) -> Case:
    """A prediction about 0.3 from its target and a reference at relative `distance` from it."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random)

    target = normal(*shape)
    policy = target + 0.3 * normal(*shape)
    other = policy + distance * normal(*shape)
    if weighted:
        options["timestep_weight"] = 0.5 + torch.rand(shape[0], generator=random)
    return Case(
        policy.to(dtype).requires_grad_(),
        target.to(dtype),
        other.to(dtype),
        torch.rand(shape[0] // draws, generator=random),
        0.5,
        {"draws": draws, **options},
    )


def make_masks(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Masks that broadcast to (rows, channels, height, width), some of them real weights."""
    random = torch.Generator().manual_seed(7)
    rows, channels, height, width = shape

    def weights(*size: int) -> Tensor:
        return (
            torch.rand(size, generator=random) * (torch.rand(size, generator=random) > 0.3) + 0.01
        )

    return {
        "pixels": weights(rows, 1, height, width) > 0.4,
        "weighted pixels": weights(rows, 1, height, width),
        "one for all": weights(1, 1, height, width),
        "columns": weights(rows, 1, 1, width),
        "lines": weights(1, 1, height, 1),
        "channels": weights(rows, channels, 1, 1),
        "channels and columns": weights(rows, channels, 1, width),
        "elements": weights(rows, channels, height, width),
        "rows": weights(rows, 1, 1, 1),
    }


class Outcome(NamedTuple):
    loss: Tensor
    implicit_score: Tensor
    gradient: Tensor
    policy_error: Tensor
    reference_error: Tensor


def outcome(case: Case, loss: Any, *, outer: Tensor | None = None, **more: Any) -> Outcome:
    """Loss, statistics and gradient; `outer` is the gradient of the (B,) losses."""
    case.policy_pred.grad = None
    value, stats = case.call(loss, return_stats=True, **more)
    value.backward(outer)
    gradient = case.policy_pred.grad
    assert gradient is not None
    return Outcome(
        value.detach(), stats.implicit_score, gradient, stats.policy_error, stats.reference_error
    )


def widened(case: Case) -> Case:
    """The same numbers in float64: its outcome is the truth."""
    return case._replace(
        policy_pred=case.policy_pred.detach().double().requires_grad_(),
        target=case.target.double(),
        reference_pred=case.reference_pred.double(),
    )


def eager_loss(
    policy_pred: Tensor,
    target: Tensor,
    scores: Tensor,
    threshold: Tensor | float,
    *,
    reference_pred: Tensor | None = None,
    reference_error: Tensor | None = None,
    beta: float = 1.0,
    temperature: float = 1e-3,
    confidence: float = 5.0,
    timestep_weight: Tensor | float = 1.0,
    mask: Tensor | None = None,
    draws: int = 1,
    reduction: str = "mean",
    return_stats: bool = True,
) -> tuple[Tensor, TGOStats]:
    """What a careful user writes without this package: everything upcast to float32."""
    p, y = policy_pred.float(), target.float()
    m = torch.ones_like(p) if mask is None else mask.float().expand(p.shape)

    def row_mean(elements: Tensor) -> Tensor:
        return (m * elements).flatten(1).sum(1) / m.flatten(1).sum(1)

    policy_error = row_mean((p - y).square())
    if reference_pred is not None:
        reference_error = row_mean((reference_pred.float() - y).square())
    assert reference_error is not None
    other = reference_error.float()
    ratio = (-(timestep_weight / temperature) * (policy_error - other)).view(-1, draws).mean(1)
    label = scores >= threshold
    weight = 1 + confidence * (scores - threshold).abs()
    loss = weight * torch.nn.functional.softplus(-(2.0 * label - 1) * beta * ratio)
    loss = loss.mean() if reduction == "mean" else loss
    stats = (beta * ratio).detach(), policy_error.detach(), other, label, weight
    return loss, TGOStats(*stats)


def assert_as_good_as_eager(
    case: Case, *, backend: str, cached: bool = False, outer: Tensor | None = None
) -> None:
    """The backend's error against float64 is at most twice eager float32's.

    Where eager is exact by luck, four roundings of a float32 sum's terms are allowed instead.
    """
    more: dict[str, Any] = {"cached": cached, "outer": outer}
    if outer is not None:
        more["reduction"] = "none"
    truth = outcome(widened(case), tgo_loss, **more)
    eager = outcome(case, eager_loss, **more)
    kernel = outcome(case, tgo_loss, backend=backend, **more)
    assert kernel.gradient.dtype == case.policy_pred.dtype
    assert kernel.loss.dtype == torch.float32

    wide = widened(case)
    p, q, y = wide.policy_pred.detach(), wide.reference_pred, wide.target
    terms = (p - y).square() if cached else ((p - q) * (p + q - 2 * y)).abs()
    strength = case.options.get("beta", 1.0) / case.options.get("temperature", 1e-3)
    weight = torch.as_tensor(case.options.get("timestep_weight", 1.0)).max().item()
    largest = reference.row_mean(terms, case.options.get("mask")).max().item()
    rounding = 4 * 2.0**-24 * largest * strength * weight
    largest_weight = 1 + case.options.get("confidence", 5.0)  # scores and threshold lie in [0, 1]
    floors = {
        "implicit_score": rounding,
        "loss": largest_weight * rounding + 2.0**-24 * truth.loss.abs().max().item(),
        "gradient": (torch.finfo(case.policy_pred.dtype).eps + rounding)
        * truth.gradient.abs().max().item(),
    }
    for name, floor in floors.items():
        exact = getattr(truth, name)
        limit = (getattr(eager, name).double() - exact).abs().max().item()
        error = (getattr(kernel, name).double() - exact).abs().max().item()
        assert error <= 2 * limit + floor, (name, error, limit, floor)
