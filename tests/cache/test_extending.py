"""A cache that is made again: only what changed is encoded, and the old one is valid until then."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cache.fake_encoder import FakeEncoder, make_image, make_manifest
from tests.cache.test_latents import SETTINGS, contents
from tests.preloaded import Popen
from tglo.cache.build import CacheReport, build_cache
from tglo.cache.latents import LatentCache
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest, Row, read_manifest, sample_id
from tglo.files import work_list
from tglo.files.claims import Claims


@pytest.fixture
def made(tmp_path: Path) -> tuple[Manifest, Path]:
    """20 images in four shards, and their cache."""
    manifest = make_manifest(tmp_path)
    build_cache(manifest, tmp_path / "cache", FakeEncoder(), **SETTINGS)
    return manifest, tmp_path / "cache"


def again(manifest: Manifest, folder: Path, **options: object) -> CacheReport:
    return build_cache(manifest, folder, FakeEncoder(), **{**SETTINGS, **options})


def check_like_new(manifest: Manifest, folder: Path) -> None:
    """The cache holds what a new one of this manifest holds."""
    fresh = folder.with_name("fresh")
    build_cache(manifest, fresh, FakeEncoder(), **SETTINGS)
    one, other = LatentCache(folder), LatentCache(fresh)
    assert one.sample_ids().tolist() == other.sample_ids().tolist()
    assert one.content() == other.content()
    for number in one.sample_ids():
        found, expected = one.batch([number]), other.batch([number])
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        found, expected = one.text([int(number)]), other.text([int(number)])
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    one.verify()


def with_row(manifest: Manifest, image: str, prompt: str) -> Manifest:
    row = Row(sample_id(prompt, image), prompt, image, 0.5, 99)
    return manifest.with_rows([*manifest.rows, row])


def test_images_overwritten_under_their_names_are_encoded_again(
    made: tuple[Manifest, Path],
) -> None:
    manifest, folder = made
    for number in (3, 8):
        make_image(100 + number).save(folder.parent / manifest.rows[number].image)
    report = again(manifest, folder)
    assert (report.encoded, report.written, report.kept) == (2, 2, 3)
    check_like_new(manifest, folder)
    assert again(manifest, folder).encoded == 0


def test_what_was_replaced_stays_for_a_day(made: tuple[Manifest, Path]) -> None:
    """A training that goes on meanwhile reads the shards that it has not opened yet."""
    manifest, folder = made
    for path in folder.iterdir():
        os.utime(path, (1, 1))  # written long ago
    running = LatentCache(folder)
    expected = LatentCache(folder).batch(running.sample_ids()[:1])
    for offset in (100, 200):
        for row in manifest.rows:
            make_image(offset + row.line).save(folder.parent / row.image)
        assert again(manifest, folder).encoded == 20
    found = running.batch(running.sample_ids()[:1])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    current = {entry["file"] for entry in LatentCache(folder).entries()}
    old = {path.name for path in folder.glob("latents-*.safetensors")} - current
    assert len(old) == 8
    for name in old:
        os.utime(folder / name, (1, 1))
    again(manifest, folder)
    assert {path.name for path in folder.glob("latents-*.safetensors")} <= current
    check_like_new(manifest, folder)


def test_a_lock_that_is_waited_for_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(work_list, "TOLD_AFTER", 0.1)
    child = script(HOLDING_ALL, tmp_path)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with Claims(tmp_path) as ours, work_list.waited_for(ours, "cache.json"):
        told = [record.getMessage() for record in caplog.records]
    assert child.wait() == 0
    assert len(told) == 1 and told[0].startswith(
        f"waiting for process {child.pid} on {socket.gethostname()}, which holds cache.json in {tmp_path};"
    )


HOLDING_ALL = """
import sys, time
from pathlib import Path
from tglo.files.claims import Claims

with Claims(Path(sys.argv[1])) as claims, claims.trying("cache.json"):
    print("held", flush=True)
    time.sleep(1)
"""


def test_of_the_same_size_and_time_a_file_is_not_read(made: tuple[Manifest, Path]) -> None:
    manifest, folder = made
    path = folder.parent / manifest.rows[3].image
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again(manifest, folder).encoded == 0
    os.utime(path)  # as an honest program leaves it: the bytes are looked at
    with pytest.raises(CacheError, match="1 of 20 images cannot be used"):
        again(manifest, folder)
    path.write_bytes(data)
    again(manifest, folder)
    check_like_new(manifest, folder)


def test_a_new_time_with_the_same_bytes_encodes_nothing(made: tuple[Manifest, Path]) -> None:
    manifest, folder = made
    before = contents(folder)
    for row in manifest.rows[:7]:
        os.utime(folder.parent / row.image, ns=(1, 1))
    report = again(manifest, folder)
    assert (report.encoded, report.written) == (0, 0)
    after = contents(folder)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"latents-00000.sources.json", "latents-00001.sources.json"}
    assert json.loads(after["latents-00000.sources.json"])[str(manifest.rows[0].sample_id)][1] == 1


def test_rows_that_are_added_are_encoded_alone(made: tuple[Manifest, Path]) -> None:
    manifest, folder = made
    make_image(50).save(folder.parent / "images" / "0005.png")  # in the middle, by name
    wider = with_row(manifest, "images/0005.png", "a bird")
    old = contents(folder)
    report = again(wider, folder)
    assert (report.encoded, report.written, report.samples, report.prompts) == (1, 2, 21, 5)
    shards = [name for name in old if name.startswith(("latents", "text"))]
    assert len(shards) == 14
    assert all(contents(folder)[name] == old[name] for name in shards)
    check_like_new(wider, folder)
    # Another row of an image that is there: an item of its own, as in a new cache.
    assert again(with_row(wider, "images/0005.png", "a cat"), folder).encoded == 1


def test_rows_that_are_removed_leave_the_cache_and_may_come_back(
    made: tuple[Manifest, Path],
) -> None:
    manifest, folder = made
    whole = LatentCache(folder).content()
    some = manifest.select([0, 1, 2, 7, 8])
    report = again(some, folder)
    assert (report.encoded, report.written, report.samples) == (0, 0, 5)
    check_like_new(some, folder)
    with pytest.raises(CacheError, match="is not in the cache|samples are not in the cache"):
        LatentCache(folder).batch([manifest.rows[5].sample_id])
    assert again(manifest, folder).encoded == 0
    assert LatentCache(folder).content() == whole


def test_the_bad_row_is_removed_as_the_error_says(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path)
    path = tmp_path / manifest.rows[3].image
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CacheError, match="line 5: images/003.png.*Repair or remove them"):
        again(manifest, tmp_path / "cache")
    good = manifest.select(number for number in range(20) if number != 3)
    report = again(good, tmp_path / "cache")
    assert (report.samples, report.quarantined) == (19, ())
    check_like_new(good, tmp_path / "cache")


def test_an_image_that_became_unreadable_is_set_aside(made: tuple[Manifest, Path]) -> None:
    manifest, folder = made
    path = folder.parent / manifest.rows[3].image
    path.write_bytes(path.read_bytes()[:60])
    before = LatentCache(folder).content()
    with pytest.raises(CacheError, match=r"1 of 20 images cannot be used.*003\.png"):
        again(manifest, folder)
    assert LatentCache(folder).content() == before  # the old cache is still the cache
    report = again(manifest, folder, max_bad_fraction=0.1)
    assert report.samples == 19 and [entry.line for entry in report.quarantined] == [5]
    assert not LatentCache(folder).has([manifest.rows[3].sample_id]).any()


def test_latents_outlive_their_images(
    made: tuple[Manifest, Path], caplog: pytest.LogCaptureFixture
) -> None:
    manifest, folder = made
    whole = contents(folder)
    for row in manifest.rows[:15]:
        (folder.parent / row.image).unlink()
    with caplog.at_level(logging.WARNING, "tglo"):
        report = again(manifest, folder)
    assert (report.samples, report.written) == (20, 0)
    assert "15 images are no longer there (images/000.png, ...)" in caplog.text
    assert contents(folder) == whole


def test_of_a_tar_that_was_packed_again_only_other_members_are_encoded(tmp_path: Path) -> None:
    import io
    import tarfile

    def pack(numbers: list[int]) -> Manifest:
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for name, number in enumerate(numbers):
                out = io.BytesIO()
                make_image(number).save(out, "PNG")
                for suffix, data in (("png", out.getvalue()), ("txt", b"a cat")):
                    info = tarfile.TarInfo(f"{name}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return read_manifest(tmp_path / "shard.tar", require_scores=False)

    assert again(pack([0, 1, 2, 3]), tmp_path / "cache").encoded == 4
    manifest = pack([0, 1, 7, 3])
    assert again(manifest, tmp_path / "cache").encoded == 1
    check_like_new(manifest, tmp_path / "cache")


class Failing(FakeEncoder):
    """Fails at its second batch."""

    def latents(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.calls["latents"] == 1:
            raise RuntimeError("out of memory")
        return super().latents(pixels)


def test_the_old_cache_is_valid_until_the_new_one_is_complete(made: tuple[Manifest, Path]) -> None:
    manifest, folder = made
    old = LatentCache(folder).content()
    for number in range(20):
        make_image(100 + number).save(folder.parent / manifest.rows[number].image)
    with pytest.raises(RuntimeError, match="out of memory"):
        build_cache(manifest, folder, Failing(), **SETTINGS)
    LatentCache(folder).verify()
    assert LatentCache(folder).content() == old
    assert again(manifest, folder).encoded == 20
    check_like_new(manifest, folder)


KILLED = """
import os, signal, sys, time
from tests.cache.fake_encoder import FakeEncoder
from tests.cache.test_latents import SETTINGS
from tglo.cache.build import build_cache
from tglo.cache.latents import LatentCache
from tglo.data.manifest import read_manifest

class Slow(FakeEncoder):
    def latents(self, pixels):
        time.sleep(0.02)
        return super().latents(pixels)

folder = sys.argv[1]
manifest = read_manifest(folder + "/manifest.csv")
for moment in (0.02, 0.05, 0.08, 0.11, 0.15):
    child = os.fork()
    if child == 0:
        build_cache(manifest, folder + "/cache", Slow(), **SETTINGS)
        os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    LatentCache(folder + "/cache").verify()
"""


def script(text: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_killed_while_it_is_extended_a_cache_is_the_old_one_or_the_new(
    made: tuple[Manifest, Path],
) -> None:
    manifest, folder = made
    for number in range(0, 20, 3):
        make_image(100 + number).save(folder.parent / manifest.rows[number].image)
    child = script(KILLED, folder.parent)
    assert child.wait(60) == 0, child.stdout and child.stdout.read()
    again(manifest, folder)
    check_like_new(manifest, folder)
    assert not list(folder.glob(".*.tmp"))


SHARED = """
import sys, time
from tests.cache.fake_encoder import FakeEncoder
from tests.cache.test_latents import SETTINGS
from tglo.cache.build import build_cache
from tglo.data.manifest import read_manifest

class Slow(FakeEncoder):
    def latents(self, pixels):
        time.sleep(0.03)
        return super().latents(pixels)

folder, count = sys.argv[1], int(sys.argv[2])
manifest = read_manifest(folder + "/manifest.csv").select(range(count))
while time.time() < float(sys.argv[3]):
    time.sleep(0.001)
report = build_cache(manifest, folder + "/shared", Slow(), **{**SETTINGS, "shard_size": 2})
print(report.complete, report.written)
"""


@pytest.mark.parametrize("extended", [False, True])
def test_two_commands_on_one_folder_share_the_work(
    made: tuple[Manifest, Path], extended: bool
) -> None:
    manifest, folder = made
    shared, alone = folder.with_name("shared"), folder.with_name("alone")
    settings = {**SETTINGS, "shard_size": 2}
    build_cache(manifest, alone, FakeEncoder(), **settings)
    if extended:
        build_cache(manifest, shared, FakeEncoder(), **settings)
        for row in manifest.rows:
            os.utime(folder.parent / row.image, ns=(1, 1))
            make_image(100 + row.line).save(folder.parent / row.image)
    children = [script(SHARED, folder.parent, 20, time.time() + 3) for _ in range(2)]
    # What they say last; before it they may warn.
    output = [child.communicate(timeout=60)[0].splitlines()[-1].split() for child in children]
    assert [child.returncode for child in children] == [0, 0], output
    assert [words[0] for words in output] == ["True", "True"]
    written = [int(words[1]) for words in output]
    assert sum(written) == (10 if extended else 12) and min(written) > 0
    assert not list(shared.glob(".*.tmp"))
    if extended:
        check_like_new(manifest, shared)
    else:
        assert contents(shared) == contents(alone)


def test_two_commands_for_other_rows_do_not_mix(made: tuple[Manifest, Path]) -> None:
    """One of them may stop and say so; what is left is a whole cache of one of the two."""
    manifest, folder = made
    start = time.time() + 3
    children = [script(SHARED, folder.parent, count, start) for count in (20, 13)]
    output = [child.communicate(timeout=60)[0] for child in children]
    assert 0 in [child.returncode for child in children], output
    for child, text in zip(children, output, strict=True):
        assert child.returncode == 0 or "at the same time: wait until it is done" in text
    cache = LatentCache(folder.with_name("shared"))
    cache.verify()
    assert len(cache) in (13, 20)
    build_cache(manifest, cache.path, FakeEncoder(), **{**SETTINGS, "shard_size": 2})
    check_like_new(manifest, cache.path)


def test_no_rank_takes_the_stale_shards_of_another_for_done(made: tuple[Manifest, Path]) -> None:
    manifest, folder = made
    old = LatentCache(folder).content()
    for row in manifest.rows:
        make_image(100 + row.line).save(folder.parent / row.image)

    class Touching(FakeEncoder):
        """As if another process had looked through the other shards meanwhile, at the images as they were."""

        def latents(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            for path in folder.glob("latents-?????.json"):
                os.utime(path)
            return super().latents(pixels)

    report = build_cache(manifest, folder, Touching(), **{**SETTINGS, "rank": 1, "world_size": 3})
    assert (report.encoded, report.others) == (20, 0) and LatentCache(folder).content() != old
    check_like_new(manifest, folder)


def test_what_a_killed_process_left_in_the_work_of_others_stays(
    made: tuple[Manifest, Path],
) -> None:
    """Files of a shard that another process holds are not removed; all others are."""
    manifest, folder = made
    (folder / ".latents-00001.safetensors.0123.tmp").write_bytes(b"half a shard")
    (folder / ".latents-00777.safetensors.0123.tmp").write_bytes(b"half a shard")
    superseded = folder / "latents-00001-0123456789ab.safetensors"
    superseded.write_bytes(b"superseded")
    os.utime(superseded, (1, 1))
    (folder / "mine.safetensors").write_bytes(b"of someone else")
    child = script(HOLDING, folder)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    again(manifest, folder)
    child.kill()
    child.wait()
    left = {path.name for path in folder.iterdir()}
    assert ".latents-00777.safetensors.0123.tmp" in left and "mine.safetensors" in left
    assert not left & {
        ".latents-00001.safetensors.0123.tmp", "latents-00001-0123456789ab.safetensors"
    }  # fmt: skip
    again(manifest, folder)
    assert not list(folder.glob(".*.tmp"))


HOLDING = """
import sys, time
from pathlib import Path
from tglo.files.claims import Claims

with Claims(Path(sys.argv[1])) as claims, claims.trying("latents-00777") as free:
    print("held" if free else "taken", flush=True)
    time.sleep(60)
"""
