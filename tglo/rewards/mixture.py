"""Combines several rewards into one score: a weighted sum of their values or their deviations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tglo.rewards.weights import did_you_mean

Scale = Literal["none", "std"]


def parse_mixture(text: str, names: Iterable[str]) -> dict[str, float]:
    """Parse NAME=WEIGHT,NAME=WEIGHT,... into weights by name, for rewards of these names.

    Raises ValueError for another form, a name that is not scored, or weights that are all 0.
    """
    names = list(names)
    weights: dict[str, float] = {}
    for entry in text.split(","):
        name, _, number = entry.strip().rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not math.isfinite(weight):
            raise ValueError(f"mixture {text!r}: {entry!r} is not NAME=WEIGHT with a finite weight")
        if name in weights:
            raise ValueError(f"mixture {text!r} names {name!r} twice; leave one")
        if name not in names:
            hint = did_you_mean(name, names)
            raise ValueError(f"mixture {text!r}: {name!r} is not scored{hint}; scored are {names}")
        weights[name] = weight
    if not any(weights.values()):
        raise ValueError(f"mixture {text!r} has no weight but 0; every score would be 0")
    return weights


def mix(
    rewards: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float], scale: Scale = "none"
) -> NDArray[np.float64]:
    """Return sum_r weight_r reward_r, (N,) float64, of rewards (N,) each.

    scale "std" replaces a reward by its deviation from its mean over these N samples, in standard
    deviations, so that weights compare across rewards of different units. Raises ValueError when
    such a reward has no deviation, or when a sum leaves the range of floats.
    """
    total = np.zeros(len(next(iter(rewards.values()))))
    for name, weight in weights.items():
        values = rewards[name]
        if scale == "std":
            deviation = float(values.std())
            if deviation == 0:
                raise ValueError(
                    f"all {len(values)} scores of {name} are {float(values[0])}: it has no deviation to "
                    "divide by; leave it out of the mixture"
                )
            values = (values - values.mean()) / deviation
        total += weight * values
    if not np.isfinite(total).all():
        raise ValueError("the mixture of these rewards and weights overflows; use smaller weights")
    return total
