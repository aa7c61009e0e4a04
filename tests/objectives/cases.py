"""A micro batch for objectives, and the plain float64 pieces that the tests build formulas from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tglo import ops
from tglo.objectives import Given, Objective

BACKENDS = [name for name in ("reference", "cpu") if not ops.backends()[name]]
T = 0.05
Formula = Callable[[Tensor, Given], Tensor]
"""(the policy's prediction in float64, the batch) -> the mean loss."""


def make_given(batch: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> Given:
    """Predictions 0.3 from the target, a reference 0.1 from the policy."""
    random = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(batch, 4, 8, 6, generator=random, dtype=torch.float64)

    target = normal()
    policy = target + 0.3 * normal()
    other = policy + 0.1 * normal()
    return Given(
        policy.to(dtype).requires_grad_(),
        target.to(dtype),
        scores=torch.rand(batch, generator=random, dtype=torch.float64),
        threshold=torch.full((batch,), 0.5, dtype=torch.float64),
        reference_pred=other.to(dtype),
        quantile=torch.rand(batch, generator=random, dtype=torch.float64),
        timestep_weight=0.5 + torch.rand(batch, generator=random, dtype=torch.float64),
    )


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    return ((a.double() - b.double()) ** 2).mean((1, 2, 3))


def gain(p: Tensor, given: Given) -> Tensor:
    """-omega (e_theta - e_ref), (B,)."""
    assert given.reference_pred is not None
    difference = mean_square(p, given.target) - mean_square(given.reference_pred, given.target)
    return -given.timestep_weight * difference


def assert_is(objective: Objective, given: Given, formula: Formula, temperature: float = T) -> None:
    """The objective's loss and gradient are the formula's, as near as the predictions' dtype allows."""
    loss, _ = objective(given, temperature)
    (gradient,) = torch.autograd.grad(loss, given.policy_pred)
    p = given.policy_pred.detach().double().requires_grad_()
    expected = formula(p, given)
    (slope,) = torch.autograd.grad(expected, p)
    exact = given.policy_pred.dtype == torch.float64
    assert loss.dtype == (torch.float64 if exact else torch.float32)
    tolerance = 1e-11 if exact else 2e-6
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=1e-14)
    torch.testing.assert_close(
        gradient.double(), slope, rtol=10 * tolerance, atol=float(slope.abs().max()) * tolerance
    )
