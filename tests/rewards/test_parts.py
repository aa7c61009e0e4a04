"""Scoring by several processes, without a word between them, and with interruptions."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cache.fake_encoder import make_image, make_manifest
from tests.preloaded import Popen
from tglo import cli
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest
from tglo.files import locked
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


def hidden(output="out.csv"):
    return sorted(p.name for p in Path().glob(f".{output}*") if not p.name.endswith(".lock"))


@pytest.fixture
def whole(scorers):
    return score_file(Path("manifest.csv"), "parts_scorers:together", Path("w.csv"), 2).read_bytes()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_last_of_the_processes_writes_the_same_bits(scorers, whole, order):
    assert [share(rank, 3) for rank in order] == [None, None, Path("out.csv")]
    assert Path("out.csv").read_bytes() == whole
    assert sum(scorers.calls) == 2 * 21


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
@pytest.mark.parametrize("world_size", [2, 5, 30])
def test_any_number_of_processes_and_any_batch_size(scorers, batch_size, world_size):
    alone = score_file(
        Path("manifest.csv"), "parts_scorers:together", Path("w.csv"), batch_size
    ).read_bytes()
    for rank in range(world_size):
        share(rank, world_size, size=batch_size)
    assert Path("out.csv").read_bytes() == alone


def test_interruptions_and_another_number_of_processes_change_no_bit(scorers, whole):
    for rank, world_size, fail_at in ((0, 2, 3), (1, 2, 2), (2, 3, 2), (0, 1, 4)):
        scorers.calls.clear()
        scorers.together.fail_at = fail_at
        with pytest.raises(RuntimeError, match="out of luck"):
            share(rank, world_size)
    scorers.calls.clear()
    scorers.together.fail_at = 0
    assert [share(rank, 2) for rank in (0, 1)] == [None, Path("out.csv")]
    assert Path("out.csv").read_bytes() == whole
    assert sum(scorers.calls) == 21 - 2 * (2 + 1 + 1 + 3)  # nothing is scored twice


def test_a_process_that_comes_late_scores_nothing_again(scorers, whole, caplog):
    share(0, 2)
    assert share(1, 2) is not None
    scorers.calls.clear()
    with caplog.at_level(logging.WARNING, "tglo"):
        assert share(0, 2) is not None
    assert not scorers.calls and Path("out.csv").read_bytes() == whole
    assert "all scores of this share are known; to make them anew remove .out.csv.p" in caplog.text
    make_image(77).save("images/000.png")  # but what has changed is
    share(0, 2)
    assert scorers.calls == [1] and Path("out.csv").read_bytes() != whole


def test_one_process_scores_anew_and_leaves_nothing(scorers, whole):
    share(0, 2), share(1, 2)
    assert hidden() == [f".out.csv.partial-{end}" for end in ("0-of-2", "1-of-2", "finished")]
    scorers.calls.clear()
    share()
    assert sum(scorers.calls) == 21 and Path("out.csv").read_bytes() == whole
    assert not list(Path().glob(".out.csv*"))


def test_unfinished_scores_of_other_scorers_are_refused_and_finished_ones_replaced(scorers):
    share(0, 2)
    for rank, world_size in ((0, 2), (1, 2), (0, 1), (2, 3)):
        with pytest.raises(ValueError, match=r"0-of-2 holds scores of .*:together.* not of .*:oth"):
            share(rank, world_size, scorer="parts_scorers:other")
    share(1, 2)
    assert share(1, 2, scorer="parts_scorers:other") is None
    assert share(0, 2, scorer="parts_scorers:other") == Path("out.csv")
    assert read_manifest("out.csv").scores().tolist() == [1.0] * 21
    share(0, 2)  # the other way round, and stopped half way
    with pytest.raises(ValueError, match="holds scores of"):
        share(1, 2, scorer="parts_scorers:other")


def test_a_share_has_one_process(scorers):
    busy = "out.csv is in use by another process"
    for rank, world_size, name in ((0, 1, ".partial.lock"), (1, 2, ".partial-1-of-2.lock")):
        with locked(Path(f".out.csv{name}"), "x"), pytest.raises(ValueError, match=busy):
            share(rank, world_size)


def test_unreadable_images_of_all_shares_are_judged_together(scorers, caplog):
    Path("images/000.png").write_bytes(b"no image")
    Path("images/003.png").unlink()
    assert share(0, 2) is None
    with pytest.raises(ManifestError, match=r"2 of 21 images .*line 2: .*line 5: "):
        share(1, 2)
    with caplog.at_level(logging.WARNING, "tglo"):
        share(1, 2, max_bad_fraction=0.2)
    assert len(read_manifest("out.csv")) == 19 and "line 5: images/003.png" in caplog.text


def test_more_rows_are_not_taken_for_a_finished_share(scorers):
    lines = Path("manifest.csv").read_text().splitlines(keepends=True)
    Path("manifest.csv").write_text("".join(lines[:13]))
    share(0, 2)
    Path("manifest.csv").write_text("".join(lines))
    assert share(1, 2) is None  # the share of process 0 was another
    assert share(0, 2) is not None and len(read_manifest("out.csv")) == 21


def test_a_damaged_part_is_named(scorers):
    share(0, 2)
    path = Path(".out.csv.partial-0-of-2")
    path.write_bytes(path.read_bytes().replace(b'"scores"', b'"scorez"'))
    with pytest.raises(ValueError, match="partial-0-of-2 is damaged .*remove it, and its images"):
        share(1, 2)


def test_killed_processes_and_the_command_line(scorers, whole, tmp_path):
    code = "import sys; from tglo.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "score", "manifest.csv", "--output", "out.csv",
               "--scorer", "parts_scorers:together", "--batch-size", "2"]  # fmt: skip

    def start(rank, **more):
        given = {"RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", **more}
        return Popen(command, env={**os.environ, **given}, stdout=subprocess.PIPE)

    killed = [start(0, DIE_AT="3"), start(1)]
    outputs = [process.communicate()[0].decode() for process in killed]
    assert [process.returncode for process in killed] == [-9, 0]
    assert "process 1 is done; the one that ends last writes the output" in outputs[1]
    again = start(0)
    assert "wrote out.csv" in again.communicate()[0].decode()
    assert Path("out.csv").read_bytes() == whole


def test_ranks_come_from_the_launcher(scorers, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", "process 0 is done"), ("1", "wrote out.csv")):
        monkeypatch.setenv("RANK", rank)
        flags = ["--scorer", "ink", "--output", "out.csv", "--batch-size", "4"]
        assert cli.main(["score", "manifest.csv", *flags]) == 0
        assert said in capsys.readouterr().out
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


def test_shares_are_whole_batches():
    rows = list(range(11))
    shares = [parts.share(rows, 2, rank, 3) for rank in range(3)]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]
