"""Pairs of a better and a worse image of one prompt, from scored rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tglo.coded import numbered
from tglo.data.groups import cut, rows_by_prompt

Pairs = NDArray[np.int64]


def form_pairs(
    ids: Sequence[int] | NDArray[np.int64],
    prompts: Sequence[str],
    buckets: Sequence[Hashable],
    scores: NDArray[np.float64],
    seed: int,
) -> Pairs:
    """Return pairs (P, 2) of row numbers, winner and loser, P >= 1; no row is in two pairs.

    The m rows of one prompt and one bucket (a pair is in one batch) are sorted by score, ties in an
    order that follows from the seed, and each row of the lower half is paired with the row m / 2 places
    above it. So the scores of a pair differ wherever any pairing allows it, by much where scores do, and
    a row is left out only if m is odd or more than half of the rows have its score. An image that was
    scored twice (two rows of one id) is not paired with itself.

    Raises ValueError when there is no pair, saying how many prompts have several rows and how many
    of those have different scores.
    """
    rows, counts = rows_by_prompt(prompts, buckets, scores, seed)
    pairs = cut(rows, counts, 2)
    names = np.asarray(ids)[pairs]
    pairs = pairs[(scores[pairs[:, 0]] > scores[pairs[:, 1]]) & (names[:, 0] != names[:, 1])]
    if not len(pairs):
        raise ValueError(_why_none(prompts, scores, len(counts)))
    return pairs


def _why_none(prompts: Sequence[str], scores: NDArray[np.float64], groups: int) -> str:
    names, numbers = numbered(prompts)
    counts = np.bincount(numbers)
    least, most = np.full((2, len(names)), [[np.inf], [-np.inf]])
    np.minimum.at(least, numbers, scores)
    np.maximum.at(most, numbers, scores)
    several = counts > 1
    different = int((several & (least < most)).sum())
    return (
        f"no pairs: of {len(names)} prompts {several.sum()} have two rows or more, {different} of those "
        f"with different scores, and 0 with both in one of the {groups} groups of a prompt and an "
        "image size. Score several images of each prompt, make the cache with --no-buckets, or use an "
        "objective of single samples (tgo, kto, bco, qrpo)"
    )
