"""The reference's errors on disk: resumable, for any number of ranks, the same bytes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.cache.fake_encoder import FakeEncoder, make_manifest
from tests.cache.old_format import as_format_1, errors_as_format_1
from tests.cache.test_latents import SETTINGS, contents
from tests.preloaded import run
from tglo.cache.build import build_cache
from tglo.cache.latents import LatentCache
from tglo.cache.reference import ReferenceErrors
from tglo.cache.reference_build import ReferenceReport, build_reference_errors
from tglo.data.errors import CacheError

FINGERPRINT = {"denoiser": "one", "seed": "0"}
DRAWS = 3
ErrorsOf = Callable[[list[int], Tensor], Tensor]


def errors_of(ids: list[int], draws: Tensor) -> Tensor:
    """A number that tells sample and draw."""
    return torch.tensor([i % 997 for i in ids], dtype=torch.float64) + draws / 10


def build(
    cache: LatentCache, folder: Path, call: ErrorsOf = errors_of, **options: int
) -> ReferenceReport:
    settings = {"draws": DRAWS, "shard_size": 4, "batch_size": 5, **options}
    return build_reference_errors(cache, folder, call, FINGERPRINT, progress=False, **settings)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    folder = tmp_path_factory.mktemp("latents")
    build_cache(make_manifest(folder), folder / "cache", FakeEncoder(), **SETTINGS)
    return LatentCache(folder / "cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: LatentCache) -> Path:
    folder = tmp_path_factory.mktemp("errors") / "whole"
    report = build(cache, folder)
    assert report.complete and report.kept == 0 and report.samples == 20
    return folder


def test_every_draw_of_every_sample_is_there(cache: LatentCache, whole: Path) -> None:
    errors = ReferenceErrors(whole)
    assert (len(errors), errors.draws, errors.fingerprint) == (20, DRAWS, FINGERPRINT)
    ids = cache.sample_ids()[::-1].tolist()
    for draw in range(DRAWS):
        found = errors.of(ids, draw)
        assert found.dtype == torch.float64
        assert torch.equal(found, errors_of(ids, torch.full((20,), draw)))


def test_a_batch_has_one_bucket_and_keeps_to_its_size(cache: LatentCache, tmp_path: Path) -> None:
    seen = []

    def watched(ids: list[int], draws: Tensor) -> Tensor:
        seen.append((len(ids), len({*cache.buckets(ids)})))
        return errors_of(ids, draws)

    build(cache, tmp_path / "e", watched)
    assert all(0 < count <= 5 and buckets == 1 for count, buckets in seen)
    assert sum(count for count, _ in seen) == 20 * DRAWS


def test_a_rank_alone_gives_the_bytes_of_one_pass(
    cache: LatentCache, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="out of luck"):
        build(cache, tmp_path / "e", out_of_luck, rank=2, world_size=3)
    with pytest.raises(CacheError, match=r"not complete \(no reference.json\)"):
        ReferenceErrors(tmp_path / "e")
    assert build(cache, tmp_path / "e", rank=2, world_size=3).others == 0
    assert contents(tmp_path / "e") == contents(whole)


def out_of_luck(ids: list[int], draws: Tensor) -> Tensor:
    raise RuntimeError("out of luck")


KILLED = """
import os, signal, sys, time
from pathlib import Path
from tests.cache.test_reference import build, errors_of
from tglo.cache.latents import LatentCache

def slow(ids, draws):
    time.sleep(0.01)
    return errors_of(ids, draws)

cache, folder = LatentCache(sys.argv[1]), Path(sys.argv[2])
for moment, ranks in ((0.03, 1), (0.08, 2), (0.12, 3)):  # the number of processes changes
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            build(cache, folder, slow, rank=rank, world_size=ranks)
            os._exit(0)
        children.append(child)
    time.sleep(moment)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
"""


def test_killed_and_gone_on_with_other_processes_it_has_the_same_bytes(
    cache: LatentCache, whole: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(cache.path), str(tmp_path / "e")]
    run(command, check=True, env=environment, timeout=90)
    assert (tmp_path / "e" / "fingerprint.json").is_file()
    build(cache, tmp_path / "e")
    assert contents(tmp_path / "e") == contents(whole)


def test_torn_files_are_named_and_made_again(
    cache: LatentCache, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "e"
    build(cache, folder)
    shard = folder / "errors-00001.safetensors"
    data = shard.read_bytes()
    for torn in (data[:-8], data[:-1] + bytes([data[-1] ^ 1])):
        shard.write_bytes(torn)
        with pytest.raises(CacheError, match=shard.name):
            ReferenceErrors(folder)
        assert build(cache, folder).written == 1
        assert contents(folder) == contents(whole)


def test_many_errors_have_an_index_that_is_mapped(
    cache: LatentCache, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, alone = tmp_path / "e", ReferenceErrors(whole)
    build(cache, folder)
    monkeypatch.setattr("tglo.cache.reference_build.MANY", 20)
    assert build(cache, folder).written == 0  # one that was made without it
    ids = cache.sample_ids()[::-3]
    monkeypatch.setattr(ReferenceErrors, "_read", lambda *_: pytest.fail("shards were read"))
    errors = ReferenceErrors(folder)
    assert len(errors) == 20 and not errors._errors.flags.owndata
    draws = torch.arange(len(ids)) % DRAWS
    for some in (1, draws):
        assert torch.equal(errors.of(ids, some), alone.of(ids, some))
    errors.check_inputs(cache, ids)
    index = folder / "index.safetensors"
    data = index.read_bytes()
    for torn in (data[:-8], data[:-1] + bytes([data[-1] ^ 1])):
        index.write_bytes(torn)
        with pytest.raises(CacheError, match="index"):
            ReferenceErrors(folder)
        build(cache, folder)
        assert index.read_bytes() == data


def test_what_does_not_fit_is_refused(cache: LatentCache, whole: Path, tmp_path: Path) -> None:
    errors = ReferenceErrors(whole)
    errors.check({"denoiser": "one"})
    with pytest.raises(CacheError, match="seed is '0' there and '1' here"):
        errors.check({"seed": "1", "denoiser": "one"})
    with pytest.raises(CacheError, match=r"1 samples have no error .*\[5\]"):
        errors.of([int(cache.sample_ids()[0]), 5], 0)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        build(cache, tmp_path / "e", draws=0)
    with pytest.raises(CacheError, match="belongs to other settings: seed is"):
        build_reference_errors(cache, whole, errors_of, {**FINGERPRINT, "seed": "1"}, draws=DRAWS)
    with pytest.raises(CacheError, match="not finite for samples"):
        build(cache, tmp_path / "nan", lambda ids, draws: errors_of(ids, draws) / 0)


def test_errors_of_format_1_are_kept_as_they_are(cache: LatentCache, tmp_path: Path) -> None:
    latents = tmp_path / "latents"
    shutil.copytree(cache.path, latents)
    as_format_1(latents)
    old, folder = LatentCache(latents), tmp_path / "e"
    build(old, folder)
    errors_as_format_1(folder)
    before = contents(folder)
    report = build(old, folder, lambda ids, draws: pytest.fail("computed again"))
    assert report.complete and report.written == 0
    assert contents(folder) == before
    ids = old.sample_ids().tolist()
    assert torch.equal(ReferenceErrors(folder).of(ids, 1), errors_of(ids, torch.ones(20)))
