"""Caching by several processes: killed, stopped and late ones, and the bytes of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cache.fake_encoder import FakeEncoder, make_image, make_manifest
from tests.cache.test_latents import SETTINGS, contents
from tests.preloaded import Popen
from tglo.cache.build import build_cache
from tglo.cache.latents import LatentCache
from tglo.cache.shards import read_record
from tglo.data.errors import CacheError
from tglo.files.claims import Claims

WORKING = """
import os, signal, sys, time
from tests.cache.fake_encoder import FakeEncoder
from tests.cache.test_latents import SETTINGS
from tglo.cache.build import build_cache
from tglo.data.manifest import read_manifest
from tglo.files import claims, work_list

claims.BEAT_SECONDS, claims.LOST_AFTER, work_list.POLL_SECONDS = 0.1, 1.0, (0.02, 0.05)
folder, rank, at, sign = sys.argv[1], *map(int, sys.argv[2:])

class Troubled(FakeEncoder):
    def latents(self, pixels):
        if sum(self.calls.values()) == at:
            os.kill(os.getpid(), sign)
        return super().latents(pixels)

settings = {**SETTINGS, "shard_size": 2, "rank": rank, "world_size": 3 if rank else 1}
report = build_cache(read_manifest(folder + "/manifest.csv"), folder + "/c", Troubled(), **settings)
print(report.written, report.kept, report.others, report.samples)
"""


def start(folder: Path, rank: int, at: int = -1, sign: int = 0) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKING, folder, str(rank), str(at), str(sign)]
    return Popen(command, env=environment, text=True, stdout=subprocess.PIPE)


def test_killed_stopped_and_late_processes_make_the_bytes_of_one(tmp_path: Path) -> None:
    """Of the three that begin one is killed and one is stopped, each in the middle of a shard; a claim of another
    host is left. One that comes late and one that begins again make all the rest.
    """
    manifest = make_manifest(tmp_path)
    settings = {**SETTINGS, "shard_size": 2}
    alone = build_cache(manifest, tmp_path / "alone", FakeEncoder(), **settings)
    with Claims(tmp_path / "c", place="another") as lost:
        lost.take("latents-00006")
        lost._end.set()
        killed = start(tmp_path, 1, 5, signal.SIGKILL)
        stopped = start(tmp_path, 2, 5, signal.SIGSTOP)
        assert killed.wait(60) == -signal.SIGKILL
        while "State:\tT" not in Path(f"/proc/{stopped.pid}/status").read_text():
            time.sleep(0.02)
        left = [path.name for path in (tmp_path / "c").glob(".*.claim")]
        assert len(left) == 3  # also of the one that was killed
        with pytest.raises(CacheError, match="is not complete"):
            LatentCache(tmp_path / "c")
        others = [start(tmp_path, 0), start(tmp_path, 1)]
        said = [[*map(int, other.communicate(timeout=60)[0].split())] for other in others]
        assert [other.returncode for other in others] == [0, 0]
        for written, kept, by_others, samples in said:
            assert written + kept + by_others == alone.written and samples == 20
        assert contents_of(tmp_path / "c") == contents(tmp_path / "alone")
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.wait(60) == 0
    assert contents(tmp_path / "c") == contents(tmp_path / "alone")


def contents_of(folder: Path) -> dict[str, bytes]:
    """Without what the process that is stopped has in its hands."""
    return {name: data for name, data in contents(folder).items() if name[0] != "."}


def test_what_another_has_taken_over_is_not_published(tmp_path: Path) -> None:
    """A process that wakes up after that discards what it has made, and looks at what the other one made."""
    manifest = make_manifest(tmp_path)

    class Overtaken(FakeEncoder):
        def latents(self, pixels):
            if self.calls["latents"] == 0:
                (tmp_path / "c/.latents-00000.claim").unlink()
                report = build_cache(manifest, tmp_path / "c", FakeEncoder(), **SETTINGS)
                assert report.complete
                make_image(77).save(tmp_path / manifest.rows[0].image)  # not to be published
            return super().latents(pixels)

    build_cache(manifest, tmp_path / "whole", FakeEncoder(), **SETTINGS)
    report = build_cache(manifest, tmp_path / "c", Overtaken(), **SETTINGS)
    record = read_record(tmp_path / "c", "latents-00000")
    assert record == read_record(tmp_path / "whole", "latents-00000")
    assert (report.written, report.others) == (1, 4)  # the prompts, and those of the other
