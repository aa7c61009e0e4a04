"""The data that the benchmark of many rows makes: a manifest, and a cache's index that has its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import many_rows
from tglo.cache import index
from tglo.cache.latents import LatentCache
from tglo.data.manifest import read_manifest


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_its_cache_has_the_rows_of_its_manifest(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    many_rows.write_manifest(path, 500, 40)
    many_rows.write_index(tmp_path / "cache", path)
    rows, cache = read_manifest(path), LatentCache(tmp_path / "cache")
    ids = rows.sample_ids()
    assert len(cache) == len(rows) == 500 and cache.has(ids).all() and cache.rows == rows.identity
    cache.check_prompts(rows.prompts())
    codes = cache.bucket_codes(ids)
    assert codes == cache.buckets(ids) and {*codes.names} == {(512, 512), (512, 640)}


def test_many_ids_are_found_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    known, wanted = np.unique(random.integers(0, 500, 200)), random.integers(-5, 520, 1000)
    one_by_one = index.lookup(known, wanted)
    monkeypatch.setattr(index, "MANY", 10)
    for found, expected in zip(index.lookup(known, wanted), one_by_one, strict=True):
        assert np.array_equal(found, expected)
