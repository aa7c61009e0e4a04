"""Which images a rater sees next: each rater has an order of their own, which follows from seed and name alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tglo import philox
from tglo.rate.events import key_of


def order_of(name: str, samples: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Return the numbers of all images (N,) in a rater's order.

    Images are sorted by random words that are keyed by seed, rater and sample id: those that are added
    later come in between, and the order of the others stays.
    """
    rater = int.from_bytes(hashlib.sha256(key_of(name).encode()).digest()[:4], "big")
    ids = torch.tensor(samples, dtype=torch.int64)
    words = philox.bits(seed, ids, rater, philox.RATING, 2)
    return np.lexsort(words.numpy().T)


def choose(
    order: NDArray[np.int64],
    free: NDArray[np.bool_],
    counts: NDArray[np.int16],
    overlap: int,
    most: int,
) -> list[int]:
    """Return the next images, `most` at most, of those that are free (N,) for a rater.

    overlap: so many raters are to rate an image. Those with fewest ratings (counts (N,)) come first, and
    those that have enough are left out. 0: everybody rates all, each in the order given.
    """
    images = order[free[order]]
    if overlap:
        have = counts[images]
        images, have = images[have < overlap], have[have < overlap]
        images = images[np.argsort(have, kind="stable")]
    found: list[int] = images[:most].tolist()
    return found
