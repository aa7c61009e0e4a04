from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.cache.fake_encoder import PROMPTS, FakeEncoder, make_image, make_manifest
from tests.data.test_images import fit_to_bucket
from tests.preloaded import run
from tglo.cache import latents as cache_module
from tglo.cache.build import build_cache
from tglo.cache.format import fingerprint_of
from tglo.cache.latents import LatentCache
from tglo.data.buckets import nearest_bucket
from tglo.data.errors import CacheError
from tglo.data.manifest import read_manifest, write_manifest

SETTINGS = {"resolution": 32, "shard_size": 6, "batch_size": 4, "progress": False}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    manifest = make_manifest(folder)
    report = build_cache(manifest, folder / "cache", FakeEncoder(), **SETTINGS)
    return manifest, folder / "cache", report


def test_the_report(built):
    _, _, report = built
    assert (report.samples, report.prompts, report.quarantined) == (20, 4, ())
    assert (report.written, report.kept, report.complete) == (5, 0, True)
    assert "20 images and 4 prompts; 20 images encoded; 5 shards written" in str(report)


def test_every_sample_is_what_the_encoder_gives(built):
    manifest, folder, _ = built
    cache = LatentCache(folder)
    buckets = [(24, 40), (32, 32), (40, 24)]
    assert len(cache) == 20
    for number, row in enumerate(manifest.rows):
        image = make_image(number)
        bucket = nearest_bucket(image.height, image.width, buckets)
        pixels, crop, original = fit_to_bucket(image, bucket)
        mean, std = FakeEncoder().latents(pixels[None])
        batch = cache.batch([row.sample_id])
        assert torch.equal(batch["mean"], mean) and torch.equal(batch["std"], std)
        assert cache.buckets([row.sample_id]) == [bucket]
        for name, value in (("original_size", original), ("crop", crop), ("target_size", bucket)):
            assert batch[name].dtype == torch.int64 and batch[name].tolist() == [list(value)]


@pytest.mark.parametrize(
    ("shape", "dtype", "fits"),
    [
        ((1, 4, 8, 8), torch.float32, True),
        ((1, 8, 8), torch.int32, True),
        ((1, 8, 8), torch.float32, False),
        ((1, 4, 8, 8), torch.int32, False),
        ((2, 8, 8), torch.int32, False),
    ],
)
def test_latents_have_channels_and_tokens_have_none(shape, dtype, fits, tmp_path, monkeypatch):
    manifest = make_manifest(tmp_path, count=1)
    monkeypatch.setattr(FakeEncoder, "encode", lambda *_: {"x": torch.ones(shape, dtype=dtype)})

    def run():
        return build_cache(manifest, tmp_path / "cache", FakeEncoder(), **SETTINGS)

    if fits:
        assert run().samples == 1
    else:
        with pytest.raises(CacheError, match="must be .1, C, h, w., integer tokens"):
            run()


def test_a_batch_keeps_the_order_asked_for(built):
    manifest, folder, _ = built
    cache = LatentCache(folder)
    ids = manifest.sample_ids()
    square = ids[[b == (32, 32) for b in cache.buckets(ids)]]
    assert len(square) > 4
    batch = cache.batch(square[::-1])
    single = torch.cat([cache.batch([i])["mean"] for i in square])
    assert torch.equal(batch["mean"], single.flip(0))
    assert torch.equal(cache.batch(torch.from_numpy(square))["mean"], single)
    with pytest.raises(ValueError, match=r"samples of one bucket, got 20 of \["):
        cache.batch(ids)


def test_text_by_prompt_and_by_sample(built):
    manifest, folder, _ = built
    cache = LatentCache(folder)
    asked = [PROMPTS[2], "", PROMPTS[0], PROMPTS[2]]
    expected = FakeEncoder().text(asked)
    found = cache.text(asked)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found["tokens"].dtype == torch.bfloat16  # as the encoder returns it
    by_sample = cache.text(manifest.sample_ids()[:5])
    assert torch.equal(by_sample["pooled"], FakeEncoder().text(manifest.prompts()[:5])["pooled"])
    empty = cache.unconditional()
    assert empty["pooled"].shape == (1, 256) and not empty["pooled"].any()
    with pytest.raises(ValueError, match="no embedding of 'a fish'"):
        cache.text(["a cat", "a fish"])


def test_text_is_encoded_once_per_prompt(tmp_path):
    encoder = FakeEncoder()
    build_cache(make_manifest(tmp_path), tmp_path / "cache", encoder, **SETTINGS)
    assert encoder.calls["text"] == 1  # four prompts, a batch of four


def test_a_second_pass_keeps_everything(built):
    manifest, folder, _ = built
    before = contents(folder)
    encoder = FakeEncoder()
    report = build_cache(manifest, folder, encoder, **SETTINGS)
    assert (report.written, report.kept, report.complete) == (0, 5, True)
    assert encoder.calls == {"latents": 0, "text": 0}
    assert contents(folder) == before


def test_a_reordered_and_rescored_manifest_is_the_same_cache(built, tmp_path):
    manifest, folder, _ = built
    write_manifest(tmp_path / "m.jsonl", list(reversed(manifest.rows)))
    again = read_manifest(tmp_path / "m.jsonl", root=manifest.root)
    report = build_cache(again, folder, FakeEncoder(), **SETTINGS)
    assert report.written == 0


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_alone_gives_the_bytes_of_one_pass(built, tmp_path, rank):
    manifest, folder, whole = built
    settings = {**SETTINGS, "rank": rank, "world_size": 3}
    report = build_cache(manifest, tmp_path / "c", FakeEncoder(), **settings)
    assert (report.written, report.others) == (whole.written, 0) and report.samples == whole.samples
    assert contents(tmp_path / "c") == contents(folder)


def test_torn_and_missing_files_are_made_again(built, tmp_path):
    manifest, folder, _ = built
    whole = contents(folder)
    copy = tmp_path / "cache"
    for name in whole:
        if name in ("fingerprint.json",):
            continue
        for cut in ("missing", "empty", "half", "flipped"):
            copy.mkdir(exist_ok=True)
            for other, data in whole.items():
                (copy / other).write_bytes(data)
            data = whole[name]
            flipped = bytes([data[-2] ^ 1]) if cut == "flipped" else b""
            kept = {"missing": b"", "empty": b"", "half": data[: len(data) // 2]}
            (copy / name).write_bytes(kept.get(cut, data[:-2] + flipped + data[-1:]))
            if cut == "missing":
                (copy / name).unlink()
            build_cache(manifest, copy, FakeEncoder(), **SETTINGS)
            assert contents(copy) == whole, (name, cut)


KILLED_AT_MOMENTS = """
import os, signal, sys, time
from tests.cache.fake_encoder import FakeEncoder
from tglo.cache.build import build_cache
from tglo.data.manifest import read_manifest

class Slow(FakeEncoder):
    def latents(self, pixels):
        time.sleep(0.02)
        return super().latents(pixels)

folder, settings = sys.argv[1], {"resolution": 32, "shard_size": 6, "batch_size": 4}
for moment in (0.03, 0.08, 0.15, 0.3):
    child = os.fork()
    if child == 0:
        manifest = read_manifest(folder + "/manifest.csv")
        build_cache(manifest, folder + "/killed", Slow(), progress=False, **settings)
        os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(built):
    manifest, folder, _ = built
    target = folder.parent / "killed"
    command = [sys.executable, "-c", KILLED_AT_MOMENTS, str(folder.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run(command, check=True, env=environment, timeout=60)
    assert (target / "fingerprint.json").exists()
    build_cache(manifest, target, FakeEncoder(), **SETTINGS)
    assert contents(target) == contents(folder)


def test_left_over_pieces_are_cleared(built, tmp_path):
    manifest, _, _ = built
    target = tmp_path / "c"
    target.mkdir()
    (target / ".latents-00000.safetensors.0123.tmp").write_bytes(b"half a shard")
    (target / ".cache.json.0123.tmp").write_bytes(b"half a file")
    build_cache(manifest, target, FakeEncoder(), **SETTINGS)
    assert not list(target.glob(".*.tmp"))


def test_handles_are_bounded_and_memory_stays_on_disk(built, monkeypatch):
    manifest, folder, _ = built
    monkeypatch.setattr(cache_module, "OPEN_SHARDS", 2)
    cache = LatentCache(folder)
    ids = manifest.sample_ids()
    expected = [LatentCache(folder).batch([i])["mean"] for i in ids]
    for i, mean in zip(ids, expected, strict=True):
        assert torch.equal(cache.batch([i])["mean"], mean)
        assert len(cache._open) <= 2
    changed = cache.batch([ids[0]])
    changed["mean"].zero_()  # a copy: the map is not touched
    assert torch.equal(cache.batch([ids[0]])["mean"], expected[0])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_shard_is_never_read_whole(tmp_path):
    class Large(FakeEncoder):
        def latents(self, pixels):
            mean = pixels.new_ones(len(pixels), 2**20, 1, 1)  # 4 MB a sample
            return mean, mean

    manifest = make_manifest(tmp_path, 8)
    settings = {**SETTINGS, "shard_size": 8}
    build_cache(manifest, tmp_path / "c", Large(), buckets=False, **settings)
    assert (tmp_path / "c" / "latents-00000.safetensors").stat().st_size > 60 * 2**20
    cache = LatentCache(tmp_path / "c")
    before = resident_bytes()
    batch = cache.batch(manifest.sample_ids()[:1])
    assert batch["mean"].shape == (1, 2**20, 1, 1)
    assert resident_bytes() - before < 40 * 2**20  # two copies and two mapped rows: 16 MB


def test_a_cache_travels_to_workers(built):
    manifest, folder, _ = built
    cache = LatentCache(folder)
    ids = manifest.sample_ids()[:1]
    again = pickle.loads(pickle.dumps(cache))
    assert torch.equal(again.batch(ids)["mean"], cache.batch(ids)["mean"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_dtype_of_latents(built, tmp_path, dtype):
    manifest, folder, _ = built
    build_cache(manifest, tmp_path / "c", FakeEncoder(), dtype=dtype, **SETTINGS)
    ids = manifest.sample_ids()[:1]
    found = LatentCache(tmp_path / "c").batch(ids)["mean"]
    assert torch.equal(found, LatentCache(folder).batch(ids)["mean"].to(dtype))


def test_squares_only(tmp_path):
    manifest = make_manifest(tmp_path, 5)
    build_cache(manifest, tmp_path / "c", FakeEncoder(), buckets=False, **SETTINGS)
    cache = LatentCache(tmp_path / "c")
    assert cache.batch(manifest.sample_ids())["mean"].shape == (5, 3, 8, 8)


def test_has_tells_which_samples_are_here(built):
    manifest, folder, _ = built
    cache = LatentCache(folder)
    ids = manifest.sample_ids()
    assert cache.has(np.append(ids, [5, 2**63 - 1])).tolist() == [True] * 20 + [False, False]
    with pytest.raises(ValueError, match=r"1 samples are not in the cache .*\[5\]"):
        cache.batch([5])


def test_the_fingerprint_is_stored_and_checked(built):
    _, folder, _ = built
    cache = LatentCache(folder)
    wanted = fingerprint_of(FakeEncoder(), resolution=32, shard_size=6)
    assert json.loads((folder / "fingerprint.json").read_text()) == cache.fingerprint == wanted
    cache.check(wanted)
    cache.check(FakeEncoder().fingerprint())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, world_size = 2\), got 2"),
        ({"max_bad_fraction": 2}, r"max_bad_fraction must be in \[0, 1\], got 2"),
        ({"resolution": 33}, "multiple of 8 .* got 33"),
    ],
)
def test_settings_out_of_range(built, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        build_cache(built[0], tmp_path / "c", FakeEncoder(), **{**SETTINGS, **change})
    assert not (tmp_path / "c").exists()


class RaggedEncoder(FakeEncoder):
    """A row for each letter of a prompt, padded to the longest at hand."""

    def text(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        self.calls["text"] += 1
        longest = max(map(len, prompts))
        letters = [[ord(letter) for letter in p] + [0] * (longest - len(p)) for p in prompts]
        rows = torch.tensor(letters, dtype=torch.float32).unsqueeze(-1).expand(-1, -1, 2)
        mask = torch.tensor([[n < len(p) for n in range(longest)] for p in prompts])
        return {"prompt_embeds": rows, "prompt_mask": mask.reshape(len(prompts), longest)}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_embeddings_with_a_mask_are_stored_without_padding(tmp_path: Path, batch_size: int) -> None:
    manifest = make_manifest(tmp_path)
    folder = tmp_path / f"cache{batch_size}"
    build_cache(manifest, folder, RaggedEncoder(), resolution=32, batch_size=batch_size)
    cache = LatentCache(folder)
    with safe_open(next(folder.glob("text-*.safetensors")), "pt") as file:
        assert file.get_slice("prompt_embeds").get_shape() == [sum(map(len, PROMPTS)), 2]
    for prompts in (["a dog", "", "ein Bär"], [""], ["a cat"]):
        expected = RaggedEncoder().text(prompts)
        found = cache.text(prompts)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    digests = cache.content()
    other = tmp_path / "other"
    build_cache(manifest, other, RaggedEncoder(), resolution=32, batch_size=2)
    assert LatentCache(other).content() == digests  # whatever the batches were
