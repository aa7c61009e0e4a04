"""Chooses the rows of each micro batch as a function of (step, micro, rank), so a resume is exact."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tglo.coded import numbered

log = logging.getLogger("tglo")
Rows = NDArray[np.int64]
Numbers = NDArray[np.signedinteger[Any]]
ORDER_VERSION = 1  # raised when a step comes to have other rows


class BatchSampler:
    """Shuffled micro batches of one bucket each, the same on every rank and after every restart.

    sample_buckets: the bucket of each row, in row order.
    micro_batch: rows per forward; accumulation: micro batches per rank and step; world_size: ranks.
    seed: in [0, 2^32); each epoch has an order of its own.
    unit: the word for a row in errors: "rows", "pairs" or "groups".

    An epoch is as many steps as hold all rows once. With one bucket its rows are shuffled in each epoch and
    cut into micro batches, and the last step is filled up with the rows that came first. The rows of a
    step then depend on the global batch alone (1 process x 4 rows equals 2 processes x 2).

    With several buckets each goes through its rows again and again, every pass in a new order, and what
    does not fill a micro batch waits for the next pass: a bucket of 5 rows at a micro batch of 32 has one
    turn in 6.4 epochs. Turns are given in proportion to the rows, so that every row counts the same over
    a run (`shares` says how nearly); in which order an epoch's turns come is random.

    Raises ValueError for no rows, fewer rows than the global batch, or a setting out of range.
    """

    def __init__(
        self,
        sample_buckets: Sequence[Hashable],
        *,
        micro_batch: int,
        accumulation: int,
        world_size: int,
        seed: int,
        unit: str = "rows",
    ) -> None:
        counts = {
            "micro_batch": micro_batch,
            "accumulation": accumulation,
            "world_size": world_size,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be in [0, 2^32), got {seed}")
        count, global_batch = len(sample_buckets), micro_batch * accumulation * world_size
        if count == 0:
            raise ValueError(f"the data set is empty: there are no {unit} to train on")
        if count < global_batch:
            raise ValueError(
                f"{count} {unit} are fewer than the global batch of {global_batch} ({micro_batch} in "
                f"a micro_batch x accumulation {accumulation} x {world_size} ranks): "
                f"make the batch smaller or give more {unit}"
            )
        self.buckets, bucket_of_row = numbered(sample_buckets)
        self.micro_batch, self.accumulation, self.world_size = micro_batch, accumulation, world_size
        self.seed, self.unit = seed, unit
        self.counts = np.bincount(bucket_of_row)
        self._count, self.steps_per_epoch = count, -(-count // global_batch)
        by_bucket = np.argsort(bucket_of_row, kind="stable")
        self._rows = np.split(by_bucket, np.cumsum(self.counts)[:-1])
        # Where in its first turn a bucket begins, so that rare ones do not all come at once.
        self._phases = (
            _stream(seed, 0, 2).random_raw(len(self.buckets)) >> np.uint64(11)
        ) * 2.0**-53
        self._plan: tuple[int, Numbers, Numbers] = (-1, *np.empty((2, 0), dtype=np.int64))

    def __len__(self) -> int:
        return self._count

    @property
    def _kind(self) -> type[np.signedinteger[Any]]:
        """The type that row numbers are kept in: half of the memory where that is enough."""
        return np.int32 if self._count < 2**31 else np.int64

    def batch(self, step: int, micro: int, rank: int) -> tuple[Rows, Rows]:
        """Return the row numbers of a micro batch and the draw of each, (micro_batch,) int64 both.

        The draw is the epoch, with several buckets the pass of the row's bucket: a row that comes
        again has another one.
        """
        limits = {"step": math.inf, "micro": self.accumulation, "rank": self.world_size}
        for (name, limit), value in zip(limits.items(), (step, micro, rank), strict=True):
            if not 0 <= value < limit:
                raise ValueError(f"{name} must be in [0, {limit}), got {value}")
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:  # only saves work: the plan follows from the epoch
            plan = self._one_bucket(epoch) if len(self.counts) == 1 else self._turns(epoch)
            self._plan = (epoch, *plan)
        position = (step_in_epoch * self.accumulation + micro) * self.world_size + rank
        return self._plan[1][position].astype(np.int64), self._plan[2][position].astype(np.int64)

    def shares(self, steps: int) -> dict[Hashable, float]:
        """Return how often a row of each bucket counts in that many steps, over the mean of all rows."""
        turns = self._given(steps * self.accumulation * self.world_size)
        factors = (turns / self.counts) * (len(self) / max(turns.sum(), 1))
        return dict(zip(self.buckets, factors.tolist(), strict=True))

    def report(self, steps: int) -> None:
        """Log how far that many steps are from counting every row the same; with one bucket they do."""
        if len(self.counts) == 1:
            return
        shares = self.shares(steps)
        worst = max(shares, key=lambda bucket: abs(math.log(max(shares[bucket], 1e-9))))
        factor, count = shares[worst], int(self.counts[self.buckets.index(worst)])
        uneven = steps >= self.steps_per_epoch and not 0.5 <= factor <= 2
        remedy = ". Train longer or with smaller micro batches" if uneven else ""
        log.log(
            logging.WARNING if uneven else logging.INFO,
            "%d buckets of images; furthest from its share in %d steps is %s, whose %s count %.2f times "
            "as much as the mean (%d of them, a micro batch of %d in %.1f epochs)%s",
            *(len(shares), steps, worst, self.unit, factor, count, self.micro_batch),
            *(len(self) / (count * self._per_epoch), remedy),
        )

    @property
    def _per_epoch(self) -> int:
        return self.steps_per_epoch * self.accumulation * self.world_size

    def _one_bucket(self, epoch: int) -> tuple[Numbers, Numbers]:
        """Return rows and draws of all micro batches of an epoch in order, (micro batches, micro) both."""
        order = _shuffled(_stream(self.seed, epoch), len(self)).astype(self._kind)
        rows = np.resize(order, (self._per_epoch, self.micro_batch))
        return rows, np.broadcast_to(np.int64(epoch), rows.shape)

    def _turns(self, epoch: int) -> tuple[Numbers, Numbers]:
        """Return the same of several buckets."""
        first, last = (self._given(number * self._per_epoch) for number in (epoch, epoch + 1))
        turns = np.repeat(np.arange(len(self.counts)), last - first)
        turns = turns[_shuffled(_stream(self.seed, epoch, 1), len(turns))]
        rows = np.empty((len(turns), self.micro_batch), dtype=self._kind)
        draws = np.empty(rows.shape, dtype=np.int32)
        for bucket in np.unique(turns).tolist():
            place = np.arange(first[bucket] * self.micro_batch, last[bucket] * self.micro_batch)
            passes, place = np.divmod(place, self.counts[bucket])
            here = turns == bucket
            draws[here] = passes.reshape(-1, self.micro_batch)
            found = np.empty(len(place), dtype=self._kind)
            starts = np.searchsorted(passes, np.arange(passes[0], passes[-1] + 2))
            for number, (start, end) in enumerate(pairwise(starts.tolist()), passes[0]):
                order = _shuffled(self._pass(bucket, int(number)), self.counts[bucket])
                found[start:end] = self._rows[bucket][order[place[start:end]]]
            rows[here] = found.reshape(-1, self.micro_batch)
        return rows, draws

    def _pass(self, bucket: int, number: int) -> np.random.Philox:
        return _stream(self.seed, number, 3, bucket)

    def _given(self, turns: int) -> Rows:
        """Return how many of the first turns each bucket has had, (buckets,).

        Turn j of a bucket of n rows is due at (j + phase) / n, and the turns come in the order of these
        times: each bucket is within a turn or so of its share at any time, and no epoch needs another's.
        """
        buckets = len(self.counts)
        # At this time the count is right but for one turn a bucket; so no bucket is off by more than all.
        near = np.ceil(turns / len(self) * self.counts - self._phases).astype(np.int64)
        low = np.maximum(near - buckets - 1, 0)
        candidates = low[:, None] + np.arange(2 * buckets + 3)
        due = (candidates + self._phases[:, None]) / self.counts[:, None]
        earliest = np.argsort(due, axis=None, kind="stable")[: turns - low.sum()]
        more = np.bincount(earliest // candidates.shape[1], minlength=buckets)
        return low + more


def _stream(seed: int, number: int, purpose: int = 0, bucket: int = 0) -> np.random.Philox:
    key, counter = [seed, number], [0, bucket, purpose, 0]
    return np.random.Philox(
        key=np.array(key, dtype=np.uint64), counter=np.array(counter, dtype=np.uint64)
    )


def _shuffled(stream: np.random.Philox, count: int) -> Rows:
    # Raw bits and a stable sort: numpy keeps these forever, unlike Generator.permutation.
    return np.argsort(stream.random_raw(count), kind="stable")
