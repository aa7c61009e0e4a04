"""The noise that generated images were made from, computed again from the seeds in their manifest.

`tglo generate` writes two columns for it: the seed of the image's generator, and the model family whose latents
the noise has the shape of. An image that was resized or cropped for the cache has other latents than those the
noise became, and is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tglo.cache.latents import LatentCache
from tglo.data.errors import CacheError, ManifestError
from tglo.data.manifest import FAMILY, SEED, SHOWN, Row
from tglo.noise.starting import generators_of, starting_noise

_WHOLE = re.compile(r"[0-9]{1,10}(\.0*)?")  # other tools write a column with gaps as 12.0
_SEEDS = 2**32
FRESH = 'use fresh noise (data.noise = "fresh", --noise fresh)'


class OwnNoise:
    """The seeds of some rows' noise, by sample id.

    source: the manifest's name, for errors. Raises ManifestError, naming lines, for rows without a seed or with
    one that is no integer in [0, 2^32), and for an image with two seeds.
    """

    def __init__(self, rows: Iterable[Row], source: str) -> None:
        self.source = source
        self._rows: dict[int, Row] = {}
        self._seeds: dict[int, int] = {}
        missing: list[int] = []
        wrong: list[str] = []
        for row in rows:
            text = row.extra.get(SEED)
            seed = _seed(text)
            if _is_empty(text) or _is_empty(row.extra.get(FAMILY)):
                missing.append(row.line)
            elif seed is None:
                wrong.append(f"line {row.line}: the seed is {text!r}")
            elif self._seeds.setdefault(row.sample_id, seed) != seed:
                first = self._rows[row.sample_id].line
                wrong.append(f"line {row.line}: its image has another seed in line {first}")
            self._rows.setdefault(row.sample_id, row)
        if missing:
            raise ManifestError(
                f"{len(missing)} rows of {source} (lines {missing[:SHOWN]}) have no {SEED!r} and {FAMILY!r}, "
                "which tell the noise that an image was made from. For images of `tglo generate` run the same "
                "command again, it keeps them and writes both columns, and score the new manifest; for any "
                f"others {FRESH}"
            )
        if wrong:
            raise ManifestError(
                f"{len(wrong)} rows of {source} are refused: {'; '.join(wrong[:SHOWN])}. A seed is an integer "
                f"in [0, 2^32), as `tglo generate` wrote it; restore it, or {FRESH}"
            )

    def check_family(self, name: str) -> None:
        """Raise ManifestError unless models of this family made all images."""
        others = {
            str(family): row.line
            for row in self._rows.values()
            if (family := row.extra[FAMILY]) != name
        }
        if others:
            told = ", ".join(f"{family} (line {line})" for family, line in sorted(others.items()))
            raise ManifestError(
                f"{self.source} has images of {told}, whose noise is not that of {name}'s latents: leave "
                f"them out, or {FRESH}"
            )

    def check_sizes(
        self, cache: LatentCache, sample_ids: Sequence[int] | NDArray[np.int64]
    ) -> None:
        """Raise CacheError for samples without a seed, and for images that the cache resized or cropped."""
        ids = np.asarray(sample_ids, dtype=np.int64)
        unknown = [i for i in ids.tolist() if i not in self._seeds]
        if unknown:
            raise CacheError(
                f"{cache.path} has {len(unknown)} samples that are not in {self.source} (ids "
                f"{unknown[:SHOWN]}): give the manifest that it was made from"
            )
        if not cache.has_digests:
            raise CacheError(
                f"{cache.path} has cache format version 1, whose samples cannot be told apart: make the "
                f"cache in another folder, or {FRESH}"
            )
        originals, buckets = cache.original_sizes(ids), cache.buckets(ids)
        changed = [
            (self._rows[i], original, bucket[-2:])
            for i, original, bucket in zip(ids.tolist(), originals, buckets, strict=True)
            if original != bucket[-2:]
        ]
        if changed:
            row, (height, width), bucket = changed[0]
            raise CacheError(
                f"{len(changed)} images of {self.source} were resized or cropped for {cache.path}, so their "
                f"latents are not those that their noise became; line {row.line}, {row.image}, was "
                f"{height} x {width} pixels and is {bucket[0]} x {bucket[1]}. Make a cache of the images' own "
                f"size (--resolution, the side of a square with as many pixels), or {FRESH}"
            )
        videos = np.array([len(bucket) == 3 for bucket in buckets])
        parts = ids[videos & ~cache.are_whole(ids)].tolist()
        if parts:
            row = self._rows[parts[0]]
            raise CacheError(
                f"{len(parts)} clips of {cache.path} are not the whole videos that their noise became, such as that "
                f"of line {row.line}, {row.image}. Make a cache with the number of frames and the rate that they were "
                f"made with (--frames, --frame-rate), from the videos' files, or {FRESH}"
            )

    def batch(self, sample_ids: Iterable[int], shape: tuple[int, ...]) -> Tensor:
        """Return the samples' noise, (B, *shape) float32 on the CPU, as sampling draws it."""
        return starting_noise(generators_of(self._seeds[i] for i in sample_ids), shape)

    def mixed(
        self, inputs: NDArray[np.int64], sample_ids: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return `LatentCache.inputs` (B, 4) of samples, told apart by their seeds too."""
        changed = inputs.copy()
        changed[:, 0] ^= np.array([self._seeds[int(i)] for i in sample_ids], dtype=np.int64)
        return changed

    def digest(self) -> str:
        """Return what tells these samples' seeds from others."""
        pairs = np.array(sorted(self._seeds.items()), dtype="<i8")
        return hashlib.sha256(pairs.tobytes()).hexdigest()


def _is_empty(cell: Any) -> bool:
    return cell is None or cell == "" or cell != cell


def _seed(cell: Any) -> int | None:
    """Return a seed from a cell, or None where it holds none."""
    if isinstance(cell, str) and _WHOLE.fullmatch(cell.strip()):
        cell = int(cell.strip().partition(".")[0])
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    fits = isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < _SEEDS
    return cell if fits else None
