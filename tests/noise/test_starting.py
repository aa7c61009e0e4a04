"""The noise of sampling: each image's own, whatever the batch."""

from __future__ import annotations

import torch

from tglo.noise.starting import generators_of, starting_noise


def test_noise_is_the_generators_first_and_the_rest_is_left_to_the_sampler() -> None:
    generators = generators_of([3, 2**32 - 1])
    together = starting_noise(generators, (4, 5, 3))
    assert together.dtype == torch.float32 and together.shape == (2, 4, 5, 3)
    assert torch.equal(together[1:], starting_noise(generators_of([2**32 - 1]), (4, 5, 3)))
    plain = torch.Generator().manual_seed(3)
    assert torch.equal(together[0], torch.randn(4, 5, 3, generator=plain))
    assert torch.equal(torch.randn(2, generator=generators[0]), torch.randn(2, generator=plain))
