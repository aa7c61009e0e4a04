"""The noise that an image starts from when it is sampled: the first numbers of a CPU generator of its own, so
that they are the same in every batch and on every device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def generators_of(seeds: Iterable[int]) -> list[torch.Generator]:
    """Return a generator for each seed."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def starting_noise(generators: Iterable[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Draw the noise of B images, (B, *shape) float32; shape: of one image's latents."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
