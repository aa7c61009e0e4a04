"""Groups of G images of one prompt, from scored rows."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tglo.coded import first_come, numbered

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
    rows, counts = rows_by_prompt(prompts, buckets, scores, seed)
    groups = cut(rows, counts, size)
    if not len(groups):
        raise ValueError(_why_none(prompts, counts, size))
    _report(groups, prompts)
    return groups


def rows_by_prompt(
    prompts: Sequence[str], buckets: Sequence[Hashable], scores: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows by prompt and bucket, and how many each of these has: the lowest score first in each, and
    they in the order of their first rows.
    """
    stream = np.random.Philox(key=np.array([seed, 1 << 63], dtype=np.uint64))
    order = np.argsort(stream.random_raw(len(prompts)), kind="stable")
    order = order[np.argsort(scores[order], kind="stable")]
    _, prompt = numbered(prompts)
    sizes, bucket = numbered(buckets)
    _, kind = np.unique(prompt * len(sizes) + bucket, return_inverse=True)
    _, kind = first_come(kind, len(kind))
    return order[np.argsort(kind[order], kind="stable")], np.bincount(kind)


def cut(rows: NDArray[np.int64], counts: NDArray[np.int64], size: int) -> Groups:
    """Cut what `rows_by_prompt` returns into groups; of two, row i of the lower half goes with row i of the
    upper one.
    """
    made = counts // size
    spare = np.repeat(counts - made, made)
    first = np.repeat(np.cumsum(counts) - counts - (np.cumsum(made) - made), made)
    first += np.arange(len(first))
    places = [first + place * spare // max(size - 1, 1) for place in reversed(range(size))]
    return rows[np.stack(places, axis=1)]


def _report(groups: Groups, prompts: Sequence[str]) -> None:
    names, numbers = numbered(prompts)
    size, every, used = groups.shape[1], len(names), len(np.unique(numbers[groups[:, 0]]))
    log.info(
        "%d groups of %d from %d of %d rows; left out: %d of %d prompts, which have no %d rows of one "
        "size, and %d rows that fill no group",
        *(len(groups), size, groups.size, len(prompts), every - used, every, size),
        len(prompts) - groups.size,
    )


def _why_none(prompts: Sequence[str], counts: NDArray[np.int64], size: int) -> str:
    largest = counts.max(initial=0)
    return (
        f"no groups of {size}: of {len(numbered(prompts)[0])} prompts none has {size} rows of one image size, the "
        f"largest has {largest}. Score more images of each prompt, choose a smaller objective.group, make "
        "the cache with --no-buckets, or use an objective of single samples (tgo, kto, bco, qrpo)"
    )
