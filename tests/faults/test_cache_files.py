"""Caches on broken machines: damaged and malformed files, a full disk, encoders that give NaN.

Numbers are those of the fault list: 3 a full disk, 4 torn files, 36 a flipped bit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.cache.fake_encoder import FakeEncoder, make_image, make_manifest
from tests.cache.old_format import as_format_1
from tests.cache.test_latents import SETTINGS, contents
from tests.cache.test_reference import DRAWS, FINGERPRINT, build, errors_of
from tglo import models
from tglo.cache.build import build_cache
from tglo.cache.latents import LatentCache
from tglo.cache.reference import ReferenceErrors
from tglo.cache.reference_build import build_reference_errors
from tglo.cache.verify import Verification
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest
from tglo.files import DamagedFile, DiskFull, write_json
from tglo.files.sealed import write_sealed

REFUSED = (CacheError, DamagedFile)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    folder = tmp_path_factory.mktemp("built")
    manifest = make_manifest(folder)
    build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
    build(LatentCache(folder / "cache"), folder / "errors")
    return manifest, folder


@pytest.fixture
def copy(built: tuple[Manifest, Path], tmp_path: Path) -> tuple[Manifest, Path]:
    """cache and errors in a folder of the test's own."""
    for name in ("cache", "errors"):
        shutil.copytree(built[1] / name, tmp_path / name)
    return built[0], tmp_path


def flip(path: Path, place: int = -1, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)


# 4, 36: damaged bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["latents-00002.safetensors", "text-00000.safetensors"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_36_a_flipped_bit_is_found_by_the_rank_that_has_the_shard(
    copy: tuple[Manifest, Path], name: str, ranks: int
) -> None:
    manifest, folder = copy
    flip(folder / "cache" / name)
    cache, found = LatentCache(folder / "cache"), []
    for rank in range(ranks):
        try:
            Verification(cache, rank, ranks).wait()
        except CacheError as error:
            found.append(str(error))
    assert len(found) == 1
    assert f"{name} differs from its checksum; run `tglo cache` again" in found[0]
    build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
    Verification(LatentCache(folder / "cache")).wait()


def test_36_a_shard_that_vanishes_is_found_too(copy: tuple[Manifest, Path]) -> None:
    cache = LatentCache(copy[1] / "cache")
    (copy[1] / "cache" / "text-00000.safetensors").unlink()
    with pytest.raises(CacheError, match="text-00000.safetensors is missing"):
        Verification(cache).wait()


@pytest.mark.parametrize(
    ("file", "open_it"),
    [("cache/cache.json", LatentCache), ("errors/reference.json", ReferenceErrors)],
)
def test_36_no_flipped_bit_of_a_last_file_is_believed(
    copy: tuple[Manifest, Path], file: str, open_it: Callable[[Path], Any]
) -> None:
    path = copy[1] / file
    whole = path.read_bytes()
    content = json.loads(whole)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole)
        flip(path, place, 1 << place % 8)
        try:
            open_it(path.parent)
        except ValueError:
            continue
        assert json.loads(path.read_bytes()) == content  # white space


def test_36_no_flipped_bit_of_a_record_is_taken_over(copy: tuple[Manifest, Path]) -> None:
    manifest, folder = copy
    path = folder / "cache" / "latents-00001.json"
    whole, before = path.read_bytes(), contents(folder / "cache")
    for place in range(0, len(whole), 97):
        flip(path, place)
        build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
        assert contents(folder / "cache") == before


# Malformed files ----------------------------------------------------------------------------------


def variants(content: Any) -> Iterator[Any]:
    """The content with one thing missing or of another kind, at any depth."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield {name: other for name, other in content.items() if name != key}
            yield from ({**content, key: other} for other in variants(value))
    elif isinstance(content, list):
        yield from ([other, *content[1:]] for value in content[:1] for other in variants(value))
    yield from (None, 3, -1, "x", [], {}, [[]], {"a": {}}, [{}], True)


NO_MATTER = {"samples", "prompts"}  # said for people, not read


@pytest.mark.parametrize("version", [1, 2])
def test_a_malformed_cache_json_is_named(copy: tuple[Manifest, Path], version: int) -> None:
    folder = copy[1] / "cache"
    if version == 1:
        as_format_1(folder)
    path = folder / "cache.json"
    content = json.loads(path.read_bytes())
    content.pop("seal", None)
    opened = 0
    for other in variants({k: v for k, v in content.items() if k not in NO_MATTER}):
        if isinstance(other, dict) and (version == 2 or other.get("version") != 1):
            write_sealed(path, other)
        else:
            write_json(path, other)
        try:
            LatentCache(folder)
            opened += 1
        except REFUSED as error:
            assert str(folder) in str(error)
            assert "tglo cache" in str(error) or "another folder" in str(error)
    assert opened < 40  # other texts where any text will do, and empty lists of quarantined images


def test_a_malformed_reference_json_is_named(copy: tuple[Manifest, Path]) -> None:
    path = copy[1] / "errors" / "reference.json"
    content = json.loads(path.read_bytes())
    del content["seal"]
    for other in variants(content):
        write_sealed(path, other) if isinstance(other, dict) else write_json(path, other)
        try:
            ReferenceErrors(path.parent)
        except REFUSED as error:
            assert str(path.parent) in str(error)


@pytest.mark.parametrize("name", ["fingerprint.json", "latents-00000.json", "text-00000.json"])
def test_a_malformed_file_is_refused_or_made_again(copy: tuple[Manifest, Path], name: str) -> None:
    manifest, folder = copy
    path, before = folder / "cache" / name, contents(folder / "cache")
    content = json.loads(path.read_bytes())
    for number, other in enumerate(variants(content)):
        if number % 5 and isinstance(other, dict):
            continue
        write_json(path, other)
        try:
            build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
            assert contents(folder / "cache") == before or name == "fingerprint.json"
        except REFUSED as error:
            assert name == "fingerprint.json" and str(folder / "cache") in str(error)


def test_deep_nesting_is_named(copy: tuple[Manifest, Path]) -> None:
    path = copy[1] / "cache" / "cache.json"
    path.write_text("[" * 100_000)
    with pytest.raises(
        DamagedFile, match=r"cache.json is damaged or no latent cache \(it is nested"
    ):
        LatentCache(path.parent)


def test_a_malformed_index_is_named(copy: tuple[Manifest, Path]) -> None:
    from safetensors.torch import load_file, save_file

    from tglo.files import sha256_file

    folder = copy[1] / "cache"
    path, whole = folder / "index.safetensors", load_file(folder / "index.safetensors")
    content = json.loads((folder / "cache.json").read_bytes())
    del content["seal"]
    for change in (
        {"shard": whole["shard"] + 9},
        {"bucket": whole["bucket"] - 3},
        {"text_position": whole["text_position"] * 1000},
        {"position": whole["position"][:-1]},
        {"position": whole["position"] + 100},
    ):
        save_file({**whole, **change}, path)
        size, digest = path.stat().st_size, sha256_file(path)
        write_sealed(
            folder / "cache.json",
            {**content, "index": {"file": path.name, "bytes": size, "sha256": digest}},
        )
        with pytest.raises(REFUSED, match="run `tglo cache` again"):
            cache = LatentCache(folder)
            cache.batch(cache.sample_ids()[:1])


# 3: a full disk -----------------------------------------------------------------------------------


class Large(FakeEncoder):
    """300 kB a sample."""

    def latents(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = super().latents(pixels)
        return mean.repeat(1, 200, 1, 1), std.repeat(1, 200, 1, 1)


def test_03_a_full_disk_stops_a_cache_which_then_goes_on(tmp_path: Path, small_disk: Path) -> None:
    manifest = make_manifest(tmp_path, 20)
    folder = small_disk / "cache"
    with pytest.raises(DiskFull, match=r"latents-0000\d\.safetensors needs .* MB and could not be"):
        build_cache(manifest, folder, Large(), **SETTINGS)
    assert not list(folder.glob(".*.tmp"))
    there = contents(folder)
    assert "latents-00000.json" in there  # the shards that were finished
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    report = build_cache(manifest, folder, Large(), **SETTINGS)
    assert report.complete and report.kept > 0
    assert there.items() <= contents(folder).items()
    build_cache(manifest, tmp_path / "other", Large(), **SETTINGS)
    assert contents(folder) == contents(tmp_path / "other")


def test_03_a_disk_that_fills_while_a_cache_is_extended_leaves_the_old_one(
    tmp_path: Path, small_disk: Path
) -> None:
    manifest = make_manifest(tmp_path, 8)
    folder = small_disk / "cache"
    build_cache(manifest, folder, Large(), **SETTINGS)
    before = LatentCache(folder).content()
    for row in manifest.rows:
        make_image(100 + row.line).save(tmp_path / row.image)
    with pytest.raises(DiskFull):
        build_cache(manifest, folder, Large(), **SETTINGS)
    LatentCache(folder).verify()
    assert LatentCache(folder).content() == before


def test_03_a_full_disk_stops_a_reference_cache_which_then_goes_on(
    built: tuple[Manifest, Path], tmp_path: Path, small_disk: Path
) -> None:
    cache, folder = LatentCache(built[1] / "cache"), small_disk / "errors"
    with pytest.raises(DiskFull, match=r"errors-0000\d\.safetensors needs .* MB and could not be"):
        build(cache, folder, draws=40_000, batch_size=40_000)
    assert not list(folder.glob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    report = build(cache, folder, draws=40_000, batch_size=40_000)
    assert report.complete and report.kept > 0
    assert len(ReferenceErrors(folder)) == 20


# Encoders that give NaN ---------------------------------------------------------------------------


def test_embeddings_that_are_not_finite_are_refused_with_the_prompt(tmp_path: Path) -> None:
    class Broken(FakeEncoder):
        def text(self, prompts: list[str]) -> dict[str, torch.Tensor]:
            found = super().text(prompts)
            found["pooled"][[prompt == "a dog" for prompt in prompts]] = float("nan")
            return found

    with pytest.raises(
        CacheError, match=r"NaN or inf in pooled for \['a dog'\]: use --dtype fp32; .* damaged"
    ):
        build_cache(make_manifest(tmp_path, 3), tmp_path / "cache", Broken(), **SETTINGS)


@pytest.mark.parametrize(
    ("builder", "part", "message"),
    [
        (tiny.build_sd15, "vae", "NaN or inf .as torch.float32. for .*images/00.*damaged"),
        (tiny.build_amused, "vae", "the autoencoder returned NaN or inf .*: use fp32; .*damaged"),
        (tiny.build_sd15, "text", "NaN or inf in .* for .*: use --dtype fp32; .*damaged"),
        (tiny.build_amused, "text", "NaN or inf in .* for .*: use --dtype fp32; .*damaged"),
    ],
)
def test_damaged_weights_of_an_encoder_are_not_cached(
    builder: Callable[[Path], Path], part: str, message: str, tmp_path: Path
) -> None:
    family: Any = models.load(builder(tmp_path / "model"))
    damaged = family.vae if part == "vae" else family.text_encoders[0]
    with torch.no_grad():
        for weights in damaged.parameters():
            weights.fill_(float("nan"))
    manifest = make_manifest(tmp_path, 2)
    with pytest.raises(ValueError, match=message):
        build_cache(manifest, tmp_path / "cache", family, resolution=16, progress=False)
    assert not (tmp_path / "cache" / "cache.json").exists()


# The reference's errors of a cache that was extended ----------------------------------------------


def test_only_errors_of_other_latents_are_computed_again(copy: tuple[Manifest, Path]) -> None:
    manifest, folder = copy
    path = Path(manifest.root) / manifest.rows[3].image
    data = path.read_bytes()
    seen: list[int] = []

    def watched(ids: list[int], draws: torch.Tensor) -> torch.Tensor:
        seen.extend(ids)
        return errors_of(ids, draws) + 1

    try:
        make_image(777 * 5 + 3).save(path)
        build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
    finally:
        path.write_bytes(data)
    cache = LatentCache(folder / "cache")
    ids = cache.sample_ids().tolist()
    with pytest.raises(
        CacheError,
        match=r"other latents or embeddings for 1 of 20 .*`tglo cache --reference` again",
    ):
        ReferenceErrors(folder / "errors").check_inputs(cache, ids)
    report = build(cache, folder / "errors", watched)
    assert {*seen} == {manifest.rows[3].sample_id} and len(seen) == DRAWS
    assert report.written == 1
    errors = ReferenceErrors(folder / "errors")
    errors.check_inputs(cache, ids)
    expected = errors_of(ids, torch.zeros(20)) + torch.tensor([i in seen for i in ids])
    assert torch.equal(errors.of(ids, 0), expected)


def test_errors_of_removed_and_added_rows(copy: tuple[Manifest, Path]) -> None:
    manifest, folder = copy
    some = manifest.select(range(12))
    build_cache(some, folder / "cache", FakeEncoder(), **SETTINGS)
    small = LatentCache(folder / "cache")
    assert build(small, folder / "errors").written == 0
    ReferenceErrors(folder / "errors").check_inputs(small, small.sample_ids().tolist())
    other = folder / "few"
    build(small, other)
    build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
    whole = LatentCache(folder / "cache")
    with pytest.raises(CacheError, match="8 samples have no error"):
        ReferenceErrors(other).check_inputs(whole, whole.sample_ids().tolist())
    ReferenceErrors(other).check_inputs(whole, small.sample_ids().tolist())  # trained on a subset
    build_reference_errors(
        whole, other, errors_of, FINGERPRINT, draws=DRAWS, shard_size=4, progress=False
    )
    ReferenceErrors(other).check_inputs(whole, whole.sample_ids().tolist())
    assert len(ReferenceErrors(other)) == 20
