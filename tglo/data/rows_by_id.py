"""The rows of a manifest by their sample ids, without a dict of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from tglo.coded import Coded
from tglo.data.manifest import Manifest, Row
from tglo.data.row_columns import LazyRows


class RowsById(Mapping[int, Row]):
    """The rows of a manifest that has each sample once, in its order; a `Row` is made when it is asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._ids = manifest.sample_ids()
        self._order = np.argsort(self._ids)
        self._sorted = self._ids[self._order]

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, int) and self._place(key) is not None

    def __getitem__(self, key: int) -> Row:
        place = self._place(key)
        if place is None:
            raise KeyError(key)
        return self._manifest.rows[place]

    def prompts(self, ids: NDArray[np.int64]) -> Coded[str]:
        """Return the prompts of samples that are all here."""
        return self._manifest.prompt_codes().take(self._order[np.searchsorted(self._sorted, ids)])

    def _place(self, key: int) -> int | None:
        at = int(np.searchsorted(self._sorted, key))
        return int(self._order[at]) if at < len(self) and self._sorted[at] == key else None


def sorted_by_name(manifest: Manifest) -> Manifest:
    """Return each sample of a manifest once, by image and prompt: in an order that is not the manifest's own."""
    once = manifest.distinct()
    images, prompts = list(once.images()), once.prompt_codes()
    used = np.unique(prompts.codes)
    rank = np.zeros(len(prompts.names), dtype=np.int64)
    rank[sorted(used.tolist(), key=lambda code: prompts.names[code])] = np.arange(len(used))
    if not isinstance(once.rows, LazyRows):
        keys = list(zip(images, rank[prompts.codes].tolist(), strict=True))
        return once.select(sorted(range(len(keys)), key=keys.__getitem__))
    import pyarrow as pa
    import pyarrow.compute as pc

    # Arrow compares the bytes of UTF-8, whose order is that of Python's text.
    table = pa.table({"image": pa.array(images, pa.large_string()), "prompt": rank[prompts.codes]})
    by = [("image", "ascending"), ("prompt", "ascending")]
    return once.select(pc.sort_indices(table, by).to_numpy().astype(np.int64))
