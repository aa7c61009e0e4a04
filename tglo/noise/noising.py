"""Noising by key: `diffuse` and `target` take no noise but the key it follows from.

They are one kernel that computes the noise where it is used, with the same bits on every backend.
`Schedule.diffuse` and `Schedule.target` take noise as given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tglo import philox
from tglo.noise.schedule import Schedule, check_rows
from tglo.ops import noise as ops


@dataclass(frozen=True, eq=False)
class Key:
    """Names the random numbers of B rows: each a pure function of (seed, sample id, draw, purpose).

    seed in [0, 2^32); sample_ids (B,) int64 in [0, 2^63); draw_index, the number of a sample's draw, an
    int or (B,) int64 in [0, 2^32); purpose: a stream of tglo.philox.
    """

    seed: int
    sample_ids: Tensor
    draw_index: Tensor | int = 0
    purpose: int = philox.NOISE


def draw_index(
    key: Key, schedule: Schedule, strata: int = 1, shape: tuple[int, ...] = ()
) -> Tensor:
    """Draw the key's timesteps as indices into the schedule, (B,) int64: floor(d(u) T) for `draw_unit`'s u
    and the schedule's density d. shape: of one image's latents, on which a density may depend.
    """
    # exact enough in float64 that it cannot round up to T
    return (schedule.place(draw_unit(key, strata), shape) * len(schedule)).long()


def draw_unit(key: Key, strata: int = 1) -> Tensor:
    """Draw the key's uniform numbers u in (0, 1), (B,) float64, whatever its purpose: where in the
    schedule a draw lies.

    strata = K: of a sample's draws, each K in turn (0 to K - 1, K to 2K - 1, ...) fall into K
    different K-ths of (0, 1), in an order of their own; one draw alone is still uniform. ValueError
    for a key out of range or strata below 1.
    """
    if strata < 1:
        raise ValueError(f"strata must be at least 1, not {strata}")
    number = philox.check_key(key.seed, key.sample_ids, key.draw_index, philox.TIMESTEP)
    unit = philox.uniform(key.seed, key.sample_ids, number, philox.TIMESTEP, 1)[:, 0].double()
    if strata > 1:
        turn, place = number // strata, number % strata
        words = philox.bits(key.seed, key.sample_ids, turn, philox.STRATUM, strata)
        order = words.argsort(dim=1, stable=True)  # a random permutation for each row
        unit = (order.gather(1, place[:, None])[:, 0] + unit) / strata
    return unit


def diffuse(
    latents: Tensor, index: Tensor, key: Key, schedule: Schedule, *, backend: str = "auto"
) -> Tensor:
    """x_t = a_t x0 + s_t eps with the key's normal eps, (B, ...) in latents.dtype.

    latents (B, ...); index (B,) int64 on the schedule's device. eps is that of `tglo.philox.normal`,
    neither stored nor rounded to the latents' dtype. The same key, latents and index give the same
    bits on every backend and device. backend: as in `tglo.tgo_loss`; float64 latents take
    "reference". Not differentiable. ValueError for shapes that do not fit, a key out of range and
    latents that require a gradient.
    """
    check_rows(latents, index)
    return _noised(latents, schedule.a[index], schedule.s[index], key, backend)


def target(
    latents: Tensor, index: Tensor, key: Key, schedule: Schedule, *, backend: str = "auto"
) -> Tensor:
    """The target that the denoiser is trained to predict at `diffuse` of the same arguments, (B, ...)
    in latents.dtype; the noise is computed again from its key.
    """
    check_rows(latents, index)
    if schedule.prediction_type == "sample":
        return latents
    return _noised(latents, *schedule.target_scales(index), key, backend)


def normal(
    key: Key, shape: Sequence[int], *, device: torch.device | str, backend: str = "auto"
) -> Tensor:
    """The key's standard normal numbers, (B, *shape) float32: `tglo.philox.normal` by the kernels."""
    zeros = torch.zeros(*key.sample_ids.shape, *shape, device=device)
    rows = zeros.new_zeros(key.sample_ids.shape)
    return _noised(zeros, rows, torch.ones_like(rows), key, backend)


def _noised(latents: Tensor, scale: Tensor, noise_scale: Tensor, key: Key, backend: str) -> Tensor:
    number = philox.check_key(key.seed, key.sample_ids, key.draw_index, key.purpose)
    return ops.diffuse(
        latents, scale, noise_scale, key.seed, key.sample_ids, number, key.purpose, backend
    )
