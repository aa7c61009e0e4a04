"""Chooses the rows of each micro batch as a function of (step, micro, rank), so a resume is exact."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class BatchSampler:
    """Shuffled micro batches of one bucket each, the same on every rank and after every restart.

    sample_buckets: the bucket of each row, in row order.
    micro_batch: rows per forward; accumulation: micro batches per rank and step; world_size: ranks.
    seed: in [0, 2^32); each epoch has an order of its own.
    unit: the word for a row in errors: "rows" or "pairs".

    In an epoch every bucket's rows are shuffled and cut into micro batches, and the buckets take turns
    in a random order. A bucket's last micro batch is filled up with its own first rows, and the epoch's
    last step with further micro batches of the buckets that opened the epoch. So a row may occur twice
    in an epoch, and none is left out. With one bucket the rows of a
    step depend on the global batch alone (1 process x 4 rows equals 2 processes x 2).

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
        numbers: dict[Hashable, int] = {}
        self._bucket_of_row = np.array(
            [numbers.setdefault(bucket, len(numbers)) for bucket in sample_buckets], dtype=np.int64
        )
        self.micro_batch, self.accumulation, self.world_size = micro_batch, accumulation, world_size
        self.seed = seed
        self._micro_counts = -(-np.bincount(self._bucket_of_row) // micro_batch)
        per_step = accumulation * world_size
        self.steps_per_epoch = int(-(-self._micro_counts.sum() // per_step))
        self._plan: tuple[int, Rows] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._bucket_of_row)

    def batch(self, step: int, micro: int, rank: int) -> tuple[Rows, int]:
        """Return the row numbers (micro_batch,) int64 of a micro batch, and the draw index, its epoch."""
        limits = {"step": math.inf, "micro": self.accumulation, "rank": self.world_size}
        for (name, limit), value in zip(limits.items(), (step, micro, rank), strict=True):
            if not 0 <= value < limit:
                raise ValueError(f"{name} must be in [0, {limit}), got {value}")
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:  # only saves work: the plan follows from the epoch
            self._plan = (epoch, self._make_plan(epoch))
        position = (step_in_epoch * self.accumulation + micro) * self.world_size + rank
        return self._plan[1][position].copy(), epoch

    def _make_plan(self, epoch: int) -> Rows:
        """Return all micro batches of an epoch in order, (steps * accumulation * world, micro)."""
        # Raw bits and a stable sort: numpy keeps these forever, unlike Generator.permutation.
        stream = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64))
        order = np.argsort(stream.random_raw(len(self)), kind="stable")
        turns = np.repeat(np.arange(len(self._micro_counts)), self._micro_counts)
        turns = turns[np.argsort(stream.random_raw(len(turns)), kind="stable")]
        turns = np.resize(turns, self.steps_per_epoch * self.accumulation * self.world_size)

        plan = np.empty((len(turns), self.micro_batch), dtype=np.int64)
        by_bucket = order[np.argsort(self._bucket_of_row[order], kind="stable")]
        ends = np.cumsum(np.bincount(self._bucket_of_row))
        for bucket, rows in enumerate(np.split(by_bucket, ends[:-1])):
            places = np.flatnonzero(turns == bucket)
            plan[places] = np.resize(rows, (len(places), self.micro_batch))
        return plan
