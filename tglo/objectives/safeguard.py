"""How much of a gradient that raises errors may be followed, if other errors must not grow."""

from __future__ import annotations

import torch
from torch import Tensor


def allowed(down: Tensor, up: Tensor, mu: float) -> Tensor:
    """Return the largest share in [0, 1] of `up` with which the errors behind `down` do not grow to first order.

    down, up: gradients (U, elements) of the errors that an update lowers and of those that it raises. A step
    along -down + s up changes the former by <down, -down + s up>, which is at most -mu |down|^2 for

        s = (1 - mu) |down|^2 / <down, up>   where <down, up> > 0, else for any s >= 0

    so mu in [0, 1] is the share of the descent that has to remain. These are gradients by the output; that
    the parameters' are proportional to them is Diffusion-SDPO's approximation (arXiv 2511.03317), and holds
    best for samples of one prompt with one draw. (U,) float64.
    """
    square = (down * down).sum(1, dtype=torch.float64)
    product = (down * up).sum(1, dtype=torch.float64)
    bound = (1 - mu) * square / torch.where(product > 0, product, 1.0)
    return torch.where(product > 0, bound, 1.0).clamp(0, 1)


def scaled(value: Tensor, scale: Tensor) -> Tensor:
    """Return `value` with `scale` times its gradient."""
    fixed = value.detach()
    return fixed + scale * (value - fixed)
