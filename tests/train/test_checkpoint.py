"""Checkpoints are whole or not there, at whatever byte the writing stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tglo.train.checkpoint import Checkpoints, newest
from tglo.train.checkpoint_draft import CheckpointError
from tglo.train.checkpoint_manifest import FILE, problem


def write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "small.json").write_text("{}")


def save(root: Path, *steps: int, keep: int = 2) -> Path:
    """Save checkpoints as one run would; returns the last one's folder."""
    run = Checkpoints(root, keep)
    return [run.save(step, write, {"step": step}) for step in steps][-1]


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.glob("*step-*"))


def found_step(root: Path) -> int | None:
    found = newest(root)
    return None if found is None else found[1]["step"]


def flip(file: Path, position: int = 100) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(bytes(content))


def test_saved_state_comes_back_and_latest_names_it(tmp_path: Path) -> None:
    folder = save(tmp_path, 7)
    assert newest(tmp_path) == (folder, {"step": 7})
    assert (tmp_path / "latest").read_text().strip() == folder.name
    assert not list(tmp_path.glob("*.tmp"))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_steps_are_numbers_not_text(tmp_path: Path) -> None:
    save(tmp_path, 99_999_999, 100_000_000, 100_000_001)
    assert names(tmp_path) == ["step-100000000", "step-100000001"]
    assert found_step(tmp_path) == 100_000_001


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "absent") is None


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_just_written_stays_beside_higher_numbers(tmp_path: Path, keep: int) -> None:
    """Fault 33: damaged ones, a stray folder, and one that someone else put there."""
    (tmp_path / "step-00000099").mkdir()
    shutil.copytree(save(tmp_path / "other", 90), tmp_path / "step-00000090")
    for step in (70, 80):
        (save(tmp_path, step, keep=9) / "small.json").unlink()
    run = Checkpoints(tmp_path, keep)
    for step in (1, 2, 3, 4):
        folder = run.save(step, write, {"step": step})
        assert problem(folder) is None
        assert (tmp_path / "latest").read_text().strip() == folder.name
    assert names(tmp_path)[:keep] == [f"step-0000000{n}" for n in range(5 - keep, 5)]
    assert names(tmp_path)[keep:] == [f"step-000000{n}" for n in (70, 80, 90, 99)]


def test_a_damaged_older_one_does_not_count(tmp_path: Path) -> None:
    (save(tmp_path, 1, 2, 3, keep=9) / "small.json").unlink()
    save(tmp_path, 4, keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000004"]
    save(tmp_path, 5, keep=2)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_one_found_damaged_by_its_checksum_does_not_count(tmp_path: Path) -> None:
    flip(save(tmp_path, 1, 2, 3, keep=9) / "inner" / "weights.bin")
    run = Checkpoints(tmp_path, keep=2)
    assert [state["step"] for _, state in run.whole()] == [2, 1]
    run.save(4, write, {"step": 4})
    assert "step-00000002" in names(tmp_path)


def test_a_folder_without_a_manifest_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000001" / "notes.txt").write_text("mine")
    save(tmp_path, 2, 3, keep=1)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("keep_bytes", [0, 1, 500, 1023])
def test_a_torn_file_falls_back_to_the_older_checkpoint(tmp_path: Path, keep_bytes: int) -> None:
    newer = save(tmp_path, 1, 2)
    file = newer / "inner" / "weights.bin"
    file.write_bytes(file.read_bytes()[:keep_bytes])
    assert found_step(tmp_path) == 1
    assert "bytes instead of 1024" in str(problem(newer))


def test_one_flipped_bit_is_seen(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    flip(folder / "inner" / "weights.bin")
    assert "does not match its checksum" in str(problem(folder))
    assert newest(tmp_path) is None


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_torn_manifest_is_seen(tmp_path: Path, cut: int) -> None:
    folder = save(tmp_path, 1)
    manifest = folder / FILE
    manifest.write_bytes(manifest.read_bytes()[:cut])
    assert "manifest.json is damaged or no checkpoint" in str(problem(folder))


@pytest.mark.parametrize("content", [[], {}, None, "x", {"files": [], "state": {}}])
def test_a_manifest_of_another_form_is_damaged(tmp_path: Path, content: object) -> None:
    newer = save(tmp_path, 1, 2)
    (newer / FILE).write_text(json.dumps(content))
    assert found_step(tmp_path) == 1


def test_a_kill_before_the_rename_leaves_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000002.tmp")
    assert found_step(tmp_path) == 1
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]  # and it is cleared away


def killed_at(root: Path, step: int, call: int, background: bool) -> bool:
    """Save a checkpoint in another process (background: in a thread of it), killed by SIGKILL at its
    system call number `call`, of those that write, flush, rename or remove; say whether there was such a call.
    """
    pid = os.fork()
    if pid == 0:
        calls = 0
        for name in ("fsync", "replace", "rmdir", "unlink", "mkdir", "open"):

            def work(*arguments: object, _inner: object = getattr(os, name), **named: object):
                nonlocal calls
                calls += 1
                if calls == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _inner(*arguments, **named)  # type: ignore[operator]

            setattr(os, name, work)
        try:
            run = Checkpoints(root, keep=1)
            (run.start if background else run.save)(step, write, {"step": step})
            run.wait()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("background", [False, True])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(background: bool, tmp_path: Path) -> None:
    """Fault 2: in every system call of a save that also removes an older one."""
    step, call = 1, 1
    save(tmp_path, step, keep=1)
    while killed_at(tmp_path, step + 1, call, background):
        assert found_step(tmp_path) in (step, step + 1)
        # Each call, but in a thread, which makes the same ones, every third.
        step, call = step + 1, call + (3 if background else 1)
        save(tmp_path, step, keep=1)
        assert names(tmp_path) == [f"step-{step:08d}"]
    assert call > 20
    assert found_step(tmp_path) == step + 1


def test_a_kill_before_an_old_one_was_removed_is_made_up_for(tmp_path: Path) -> None:
    """Also where no other checkpoint is written, because the run is at its end."""
    last = save(tmp_path, 1, 2, 3, keep=3)
    Checkpoints(tmp_path, keep=2).go_on_from(last)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_disk_full_keeps_the_old_one_and_says_so(small_disk: Path) -> None:
    """Fault 3, on a real full disk."""
    save(small_disk, 1)
    kept = names(small_disk)

    def full(folder: Path) -> None:
        (folder / "part.bin").write_bytes(bytes(4_000_000))

    run = Checkpoints(small_disk, keep=1)
    expected = r"step-00000002 needs 4.0 MB and could not be written, .*Older .* unharmed"
    with pytest.raises(CheckpointError, match=expected):
        run.save(2, full, {"step": 2}, needed=4_000_000)
    assert names(small_disk) == kept and found_step(small_disk) == 1
    run.save(2, write, {"step": 2})
    assert found_step(small_disk) == 2


def test_saving_over_a_damaged_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "small.json").unlink()
    Checkpoints(tmp_path, keep=1).save(1, write, {"try": 2})
    assert newest(tmp_path) == (folder, {"try": 2})
    assert json.loads((folder / FILE).read_text())["world_size"] == 1
