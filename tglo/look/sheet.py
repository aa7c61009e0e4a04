"""The rows of a manifest as columns of numbers, which a million rows need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tglo.coded import numbered
from tglo.data.manifest import Manifest

SEED = 0
"""Of what is chosen by chance: the same page of the same data."""


@dataclass(frozen=True)
class Sheet:
    """A manifest with the numbers of its rows' prompts and images."""

    manifest: Manifest

    def __len__(self) -> int:
        return len(self.manifest)

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """(N,), NaN where a row has none."""
        return np.array(
            [np.nan if row.score is None else row.score for row in self.manifest.rows],
            dtype=np.float64,
        )

    @cached_property
    def scored(self) -> NDArray[np.int64]:
        """The rows that have a score, (S,)."""
        return np.flatnonzero(~np.isnan(self.scores))

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The sample id of each row, (N,): prompt and image in one number."""
        return self.manifest.sample_ids()

    @cached_property
    def _prompts(self) -> tuple[list[str], NDArray[np.int64]]:
        return numbered(self.manifest.prompt_codes())

    @property
    def prompts(self) -> list[str]:
        """The different prompts, (P,)."""
        return self._prompts[0]

    @property
    def prompt_of(self) -> NDArray[np.int64]:
        """The number of each row's prompt, (N,)."""
        return self._prompts[1]

    @cached_property
    def _images(self) -> tuple[list[str], NDArray[np.int64]]:
        return numbered([row.image for row in self.manifest.rows])

    @property
    def images(self) -> list[str]:
        """The different names of images, (I,)."""
        return self._images[0]

    @property
    def image_of(self) -> NDArray[np.int64]:
        """The number of each row's image, (N,)."""
        return self._images[1]

    @cached_property
    def first_of(self) -> NDArray[np.int64]:
        """The first row of each image, (I,)."""
        return np.unique(self.image_of, return_index=True)[1]

    @cached_property
    def _by_image(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ends = np.cumsum(np.bincount(self.image_of, minlength=len(self.images)))
        return np.argsort(self.image_of, kind="stable"), ends

    def rows_of(self, images: Iterable[int]) -> NDArray[np.int64]:
        """Return the rows of images, by their numbers."""
        order, ends = self._by_image
        parts = [order[ends[n - 1] if n else 0 : ends[n]] for n in images]
        return np.sort(np.concatenate(parts))


def chosen(count: int, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` of the numbers below `count`, by chance where there are more; ascending."""
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    return np.sort(shuffled(count)[:limit])


def shuffled(count: int) -> NDArray[np.int64]:
    """Return the numbers below `count` in an order that is always the same."""
    stream = np.random.Philox(key=np.array([SEED, count], dtype=np.uint64))
    return np.argsort(stream.random_raw(count), kind="stable").astype(np.int64)
