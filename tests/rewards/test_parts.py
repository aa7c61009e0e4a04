"""Scoring by several processes, without a word between them, and with interruptions."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cache.fake_encoder import make_image, make_manifest
from tests.preloaded import Popen
from tglo import cli
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest
from tglo.files.claims import Claims
from tglo.rewards import parts, scoring
from tglo.rewards.scoring import score_file, score_share

SCORERS = '''
import numpy as np, os, signal
calls = []
def together(images, prompts):
    """Depends on the batch, as rounding does."""
    calls.append(len(images))
    if len(calls) == int(os.environ.get("DIE_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if len(calls) == int(os.environ.get("STOP_AT", 0)):
        os.kill(os.getpid(), signal.SIGSTOP)
    if len(calls) == together.fail_at:
        raise RuntimeError("out of luck")
    red = np.array([np.asarray(i)[..., 0].mean() + len(p) for i, p in zip(images, prompts)])
    return red + red.sum() / 7
together.fail_at = 0
def other(images, prompts):
    return [1.0] * len(images)
'''


@pytest.fixture
def scorers(tmp_path, monkeypatch):
    """The module of two scorers that the working folder holds, and a manifest of 21 images in it."""
    (tmp_path / "parts_scorers.py").write_text(SCORERS)
    make_manifest(tmp_path, 21)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("parts_scorers", None)
    import parts_scorers

    monkeypatch.setattr("tglo.rewards.partial.SAVE_SECONDS", 0.0)
    yield parts_scorers
    sys.modules.pop("parts_scorers", None)


def share(rank=0, world_size=1, output="out.csv", scorer="parts_scorers:together", size=2, **more):
    where = {"rank": rank, "world_size": world_size, "device": "cpu"}
    return score_share(Path("manifest.csv"), scorer, Path(output), size, **where, **more)


@pytest.fixture
def whole(scorers):
    return score_file(Path("manifest.csv"), "parts_scorers:together", Path("w.csv"), 2).read_bytes()


@pytest.mark.parametrize("rank", range(3))
def test_any_of_the_processes_alone_writes_the_same_bits(scorers, whole, rank):
    assert share(rank, 3) == Path("out.csv")
    assert Path("out.csv").read_bytes() == whole
    assert sum(scorers.calls) == 2 * 21


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 2), (3, 5), (4, 30), (100, 2)])
def test_any_number_of_processes_and_any_batch_size(scorers, batch_size, world_size):
    alone = score_file(
        Path("manifest.csv"), "parts_scorers:together", Path("w.csv"), batch_size
    ).read_bytes()
    share(world_size - 1, world_size, size=batch_size)
    assert Path("out.csv").read_bytes() == alone


def test_interruptions_and_another_number_of_processes_change_no_bit(scorers, whole):
    for rank, world_size, fail_at in ((0, 2, 3), (1, 2, 2), (2, 3, 2), (0, 1, 4)):
        scorers.calls.clear()
        scorers.together.fail_at = fail_at
        with pytest.raises(RuntimeError, match="out of luck"):
            share(rank, world_size)
    scorers.calls.clear()
    scorers.together.fail_at = 0
    share(0, 2)
    assert Path("out.csv").read_bytes() == whole
    assert sum(scorers.calls) == 21 - 2 * (2 + 1 + 1 + 3)  # nothing is scored twice


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_process_that_comes_late_scores_nothing_again(scorers, whole, caplog, world_size):
    share(0, 2)
    scorers.calls.clear()
    with caplog.at_level(logging.WARNING, "tglo"):
        share(world_size - 1, world_size)
    assert not scorers.calls and Path("out.csv").read_bytes() == whole
    assert "all scores are known; to make them anew remove .out.csv.partial-work" in caplog.text
    make_image(77).save("images/000.png")  # but what has changed is
    share(world_size - 1, world_size)
    assert scorers.calls == [1] and Path("out.csv").read_bytes() != whole


def test_one_process_leaves_nothing_and_scores_anew(scorers, whole):
    scorers.calls.clear()
    for _ in range(2):
        share()
        assert Path("out.csv").read_bytes() == whole and not list(Path().glob(".out.csv*"))
    assert sum(scorers.calls) == 2 * 21


def test_unfinished_scores_of_other_scorers_are_refused_and_finished_ones_replaced(scorers):
    interrupt(scorers)
    for rank, world_size in ((0, 2), (0, 1), (2, 3)):
        with pytest.raises(ValueError, match=r"scores-.*holds scores of .*:together.* not of .*:o"):
            share(rank, world_size, scorer="parts_scorers:other")
    share(1, 2)
    share(1, 2, scorer="parts_scorers:other")
    assert read_manifest("out.csv").scores().tolist() == [1.0] * 21
    interrupt(scorers)  # the other way round, and stopped half way
    with pytest.raises(ValueError, match="holds scores of"):
        share(1, 2, scorer="parts_scorers:other")


def interrupt(scorers, after=3):
    scorers.calls.clear()
    scorers.together.fail_at = after
    with pytest.raises(RuntimeError, match="out of luck"):
        share(0, 2)
    scorers.together.fail_at = 0


def test_scores_that_an_earlier_version_left_are_gone_on_with(scorers, whole):
    """Its files are beside the output: of one process, and of each of several."""
    interrupt(scorers, after=5)
    found = sorted(Path(".out.csv.partial-work").glob("scores-*.json"))
    names = [".out.csv.partial-0-of-2", ".out.csv.partial-1-of-2", ".out.csv.partial"]
    for path, name in zip(found, names, strict=False):
        path.rename(name)
    Path(".out.csv.partial-0-of-2.lock").touch()
    found[3].unlink()
    scorers.calls.clear()
    share()
    assert Path("out.csv").read_bytes() == whole and sum(scorers.calls) == 21 - 3 * 2
    assert not list(Path().glob(".out.csv*"))


def test_unreadable_images_of_all_shares_are_judged_together(scorers, caplog):
    Path("images/000.png").write_bytes(b"no image")
    Path("images/003.png").unlink()
    with pytest.raises(ManifestError, match=r"2 of 21 images .*line 2: .*line 5: "):
        share(1, 2)
    with caplog.at_level(logging.WARNING, "tglo"):
        share(1, 2, max_bad_fraction=0.2)
    assert len(read_manifest("out.csv")) == 19 and "line 5: images/003.png" in caplog.text


def test_rows_that_are_added_are_scored_and_no_others(scorers, whole):
    lines = Path("manifest.csv").read_text().splitlines(keepends=True)
    Path("manifest.csv").write_text("".join(lines[:13]))
    share(0, 2)
    Path("manifest.csv").write_text("".join(lines))
    scorers.calls.clear()
    share(1, 2)
    assert sum(scorers.calls) == 21 - 12 and Path("out.csv").read_bytes() == whole


def test_a_damaged_part_is_named(scorers):
    interrupt(scorers)
    path = next(Path(".out.csv.partial-work").glob("scores-00000-*.json"))
    path.write_bytes(path.read_bytes().replace(b'"scores"', b'"scorez"'))
    with pytest.raises(ValueError, match="scores-00000-.* is damaged .*remove it, and its images"):
        share(1, 2)


def start(*flags, **more):
    code = """
import os, sys
from tglo.cli import main
from tglo.files import claims, work_list
claims.BEAT_SECONDS, claims.LOST_AFTER = 0.2, float(os.environ.get("LOST_AFTER", 120))
work_list.POLL_SECONDS = 0.05, 0.1
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "score", "manifest.csv", "--output", "out.csv",
               "--scorer", "parts_scorers:together", "--batch-size", "2", *flags]  # fmt: skip
    return Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **more}, stdout=subprocess.PIPE
    )


def test_processes_that_are_killed_stopped_and_late(scorers, whole):
    """One dies in the middle of a part, one stops there, of one on another host a claim is left: who is left takes
    over. The one that was stopped goes on when all is done, and one that begins then scores nothing.
    """
    folder = Path(".out.csv.partial-work")
    with Claims(folder, place="another") as lost:
        lost.take(next(name_of_part(scorers, 9)))
        lost._end.set()  # no sign of it from here on
        stopped = start(STOP_AT="2", LOST_AFTER="1")
        while not (found := list(folder.glob(".scores-*.claim"))[1:]):
            time.sleep(0.02)
        assert found
        killed = start(RANK="1", WORLD_SIZE="2", DIE_AT="3")
        assert killed.wait(60) == -9
        others = [start(LOST_AFTER="1"), start(LOST_AFTER="1", RANK="1", WORLD_SIZE="2")]
        assert [other.wait(60) for other in others] == [0, 0]
        assert Path("out.csv").read_bytes() == whole
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.wait(60) == 0 and Path("out.csv").read_bytes() == whole
    output = start(RANK="1", WORLD_SIZE="2", DIE_AT="1").communicate(timeout=60)[0].decode()
    assert "wrote out.csv" in output and Path("out.csv").read_bytes() == whole


def name_of_part(scorers, number):
    rows = read_manifest("manifest.csv", require_scores=False)
    work = parts.Parts(Path("out.csv"), {"together": scorers.together})
    return (part.name for part in work._divide(rows, 2)[number:])


def test_ranks_come_from_the_launcher(scorers, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        flags = ["--scorer", "ink", "--output", "out.csv", "--batch-size", "4"]
        assert cli.main(["score", "manifest.csv", *flags]) == 0
        assert "wrote out.csv" in capsys.readouterr().out
    assert len(read_manifest("out.csv")) == 21


class Short:
    """A scorer on a GPU with room for so many images."""

    device = torch.device("cuda")

    def __init__(self, room):
        self.room, self.asked = room, []

    def __call__(self, images, prompts):
        self.asked.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("short of memory")
        return [np.asarray(i)[..., 0].mean() for i in images]


@pytest.mark.parametrize(
    ("room", "asked"), [(100, [2, 4, 8, 7]), (5, [2, 4, 8, 4, 4, 4, 3]), (1, [2] + [1] * 21)]
)
def test_the_batch_size_is_found_on_a_gpu(scorers, monkeypatch, room, asked):
    short = Short(room)
    monkeypatch.setattr(scoring, "load_scorer", lambda text, **_: short)
    monkeypatch.setattr(scoring, "FIRST_BATCH", 2)
    share(size=0)
    assert short.asked == asked
    expected = [np.asarray(make_image(n))[..., 0].mean() for n in range(21)]
    assert read_manifest("out.csv").scores().tolist() == pytest.approx(expected)


def test_no_memory_says_what_to_do(scorers, monkeypatch):
    monkeypatch.setattr(scoring, "load_scorer", lambda text, **_: Short(0))
    with pytest.raises(RuntimeError, match=r"no memory for 1 images at once .*smaller dtype"):
        share(size=0)
    with pytest.raises(RuntimeError, match=r"no memory for 2 images .*batch_size of 0 finds"):
        share(size=2)
    with pytest.raises(ValueError, match="batch_size is -1"):
        share(size=-1)


@pytest.mark.parametrize(
    ("rows", "unit", "size"), [(21, 2, 2), (21, 100, 100), (2560, 3, 9), (999_999, 32, 1024)]
)
def test_parts_are_whole_batches(scorers, rows, unit, size):
    row = read_manifest("manifest.csv", require_scores=False).rows[0]
    manifest = read_manifest("manifest.csv").with_rows([row] * rows)
    found = parts.Parts(Path("out.csv"), {"together": scorers.together})._divide(manifest, unit)
    assert {len(part.rows) for part in found[:-1]} <= {size}
    assert sum(len(part.rows) for part in found) == rows
