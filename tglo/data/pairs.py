"""Pairs of a better and a worse image of one prompt, from scored rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tglo.data.groups import cut, rows_by_prompt

Pairs = NDArray[np.int64]


def form_pairs(
    ids: Sequence[int],
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
    groups = rows_by_prompt(prompts, buckets, scores, seed)
    pairs = [
        (winner, loser)
        for rows in groups
        for winner, loser in cut(rows, 2)
        if scores[winner] > scores[loser] and ids[winner] != ids[loser]
    ]
    if not pairs:
        raise ValueError(_why_none(prompts, scores, len(groups)))
    return np.array(pairs, dtype=np.int64)


def _why_none(prompts: Sequence[str], scores: NDArray[np.float64], groups: int) -> str:
    found: dict[str, list[float]] = {}
    for prompt, score in zip(prompts, scores.tolist(), strict=True):
        found.setdefault(prompt, []).append(score)
    several = [values for values in found.values() if len(values) > 1]
    different = sum(len(set(values)) > 1 for values in several)
    return (
        f"no pairs: of {len(found)} prompts {len(several)} have two rows or more, {different} of those "
        f"with different scores, and 0 with both in one of the {groups} groups of a prompt and an "
        "image size. Score several images of each prompt, make the cache with --no-buckets, or use an "
        "objective of single samples (tgo, kto, bco, qrpo)"
    )
