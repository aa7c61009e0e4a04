"""Groups of G images of one prompt, from scored rows."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("tglo")
Groups = NDArray[np.int64]


def form_groups(
    prompts: Sequence[str],
    buckets: Sequence[Hashable],
    scores: NDArray[np.float64],
    size: int,
    seed: int,
) -> Groups:
    """Return groups (N, size) of row numbers, N >= 1, the best score first; no row is in two of them.

    The m rows of one prompt and one bucket (a group is in one batch) are sorted by score, ties in an
    order that follows from the seed, and k = m // size groups take one row each from `size` stretches
    of k rows, spread evenly from the lowest score to the highest. So each group has low and high
    scores, and the m - k size rows that are left out lie between the stretches.

    Raises ValueError when no prompt has enough rows, saying how many the largest has.
    """
    found = rows_by_prompt(prompts, buckets, scores, seed)
    groups = [group for rows in found for group in cut(rows, size)]
    if not groups:
        raise ValueError(_why_none(prompts, found, size))
    array = np.array(groups, dtype=np.int64)
    _report(array, prompts)
    return array


def rows_by_prompt(
    prompts: Sequence[str], buckets: Sequence[Hashable], scores: NDArray[np.float64], seed: int
) -> list[list[int]]:
    """Return the rows of each prompt and bucket, the lowest score first; in the order of their first rows."""
    stream = np.random.Philox(key=np.array([seed, 1 << 63], dtype=np.uint64))
    order = np.argsort(stream.random_raw(len(prompts)), kind="stable")
    order = order[np.argsort(scores[order], kind="stable")]
    found: dict[tuple[str, Hashable], list[int]] = {}
    for row in order.tolist():
        found.setdefault((prompts[row], buckets[row]), []).append(row)
    return sorted(found.values(), key=min)


def cut(rows: list[int], size: int) -> list[list[int]]:
    """Cut sorted rows into groups; of two, row i of the lower half goes with row i of the upper one."""
    count = len(rows) // size
    spare = len(rows) - count
    starts = [place * spare // max(size - 1, 1) for place in reversed(range(size))]
    return [[rows[start + number] for start in starts] for number in range(count)]


def _report(groups: Groups, prompts: Sequence[str]) -> None:
    size, every = groups.shape[1], len(set(prompts))
    used = len({prompts[row] for row in groups[:, 0].tolist()})
    log.info(
        "%d groups of %d from %d of %d rows; left out: %d of %d prompts, which have no %d rows of one "
        "size, and %d rows that fill no group",
        *(len(groups), size, groups.size, len(prompts), every - used, every, size),
        len(prompts) - groups.size,
    )


def _why_none(prompts: Sequence[str], found: list[list[int]], size: int) -> str:
    largest = max(map(len, found), default=0)
    return (
        f"no groups of {size}: of {len(set(prompts))} prompts none has {size} rows of one image size, the "
        f"largest has {largest}. Score more images of each prompt, choose a smaller objective.group, make "
        "the cache with --no-buckets, or use an objective of single samples (tgo, kto, bco, qrpo)"
    )
