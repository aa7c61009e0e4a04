"""A micro batch for objectives, and the plain float64 pieces that the tests build formulas from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tglo import ops
from tglo.noise.draw import Draw
from tglo.objectives import Labels, MicroBatch, Objective

BACKENDS = [name for name in ("reference", "cpu") if not ops.backends()[name]]
T = 0.05
Formula = Callable[[Tensor, MicroBatch], Tensor]
"""(the policy's prediction in float64, the batch) -> the mean loss."""


def make_batch(rows: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> MicroBatch:
    """Predictions 0.3 from the target, a reference 0.1 from the policy."""
    random = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(rows, 4, 8, 6, generator=random, dtype=torch.float64)

    target = normal()
    policy = target + 0.3 * normal()
    other = policy + 0.1 * normal()
    scores = torch.rand(rows, generator=random, dtype=torch.float64)
    quantiles = torch.rand(rows, generator=random, dtype=torch.float64)
    return MicroBatch(
        Labels(scores, torch.full_like(scores, 0.5), quantiles),
        draw_of(target.to(dtype)),
        timestep_weight=0.5 + torch.rand(rows, generator=random, dtype=torch.float64),
        policy_pred=policy.to(dtype).requires_grad_(),
        reference_pred=other.to(dtype),
    )


def draw_of(target: Tensor) -> Draw:
    """A draw of which only the target is looked at."""
    return Draw(torch.zeros(len(target), dtype=torch.int64), target, target, {})


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    return ((a.double() - b.double()) ** 2).mean((1, 2, 3))


def gain(p: Tensor, batch: MicroBatch) -> Tensor:
    """-omega (e_theta - e_ref), (B,)."""
    assert batch.reference_pred is not None
    difference = mean_square(p, batch.draw.target) - mean_square(
        batch.reference_pred, batch.draw.target
    )
    return -batch.timestep_weight * difference


def assert_is(
    objective: Objective, batch: MicroBatch, formula: Formula, temperature: float = T
) -> None:
    """The objective's loss and gradient are the formula's, as near as the predictions' dtype allows."""
    loss, _ = objective(batch, temperature)
    (gradient,) = torch.autograd.grad(loss, batch.policy_pred)
    p = batch.policy_pred.detach().double().requires_grad_()
    expected = formula(p, batch)
    (slope,) = torch.autograd.grad(expected, p)
    exact = batch.policy_pred.dtype == torch.float64
    assert loss.dtype == (torch.float64 if exact else torch.float32)
    tolerance = 1e-11 if exact else 2e-6
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=1e-14)
    torch.testing.assert_close(
        gradient.double(), slope, rtol=10 * tolerance, atol=float(slope.abs().max()) * tolerance
    )
