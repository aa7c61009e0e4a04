"""Checkpoints are whole or not there, at whatever byte the writing stopped."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from tglo.train import checkpoint


def write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "small.json").write_text("{}")


def test_saved_state_comes_back_and_latest_names_it(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 7, write, {"step": 7}, keep=2)
    assert checkpoint.newest(tmp_path) == (folder, {"step": 7})
    assert (tmp_path / "latest").read_text().strip() == folder.name
    assert not list(tmp_path.glob("*.tmp"))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, step, write, {"step": step}, keep=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent") is None


@pytest.mark.parametrize("keep_bytes", [0, 1, 500, 1023])
def test_a_torn_file_falls_back_to_the_older_checkpoint(tmp_path: Path, keep_bytes: int) -> None:
    checkpoint.save(tmp_path, 1, write, {"step": 1}, keep=3)
    newer = checkpoint.save(tmp_path, 2, write, {"step": 2}, keep=3)
    file = newer / "inner" / "weights.bin"
    file.write_bytes(file.read_bytes()[:keep_bytes])
    found = checkpoint.newest(tmp_path)
    assert found is not None and found[1] == {"step": 1}
    assert "bytes instead of 1024" in str(checkpoint.verify(newer))


def test_one_flipped_bit_is_seen(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, write, {}, keep=1)
    file = folder / "inner" / "weights.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    assert "does not match its checksum" in str(checkpoint.verify(folder))
    assert checkpoint.newest(tmp_path) is None


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_a_torn_manifest_is_seen(tmp_path: Path, cut: int) -> None:
    folder = checkpoint.save(tmp_path, 1, write, {}, keep=1)
    manifest = folder / checkpoint.MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:cut])
    assert "manifest cannot be read" in str(checkpoint.verify(folder))


def test_a_kill_before_the_rename_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, write, {"step": 1}, keep=2)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000002.tmp")
    found = checkpoint.newest(tmp_path)
    assert found is not None and found[1] == {"step": 1}
    checkpoint.save(tmp_path, 3, write, {"step": 3}, keep=2)
    assert not list(tmp_path.glob("*.tmp"))  # and it is cleared away


def test_disk_full_keeps_the_old_one_and_says_so(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, write, {"step": 1}, keep=1)

    def full(folder: Path) -> None:
        (folder / "part.bin").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(checkpoint.CheckpointError, match="No space left.*older .* unharmed"):
        checkpoint.save(tmp_path, 2, full, {"step": 2}, keep=1)
    found = checkpoint.newest(tmp_path)
    assert found is not None and found[1] == {"step": 1}
    assert not list(tmp_path.glob("*.tmp"))


def test_saving_over_a_damaged_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, write, {"try": 1}, keep=1)
    (folder / "small.json").unlink()
    checkpoint.save(tmp_path, 1, write, {"try": 2}, keep=1)
    assert checkpoint.newest(tmp_path) == (folder, {"try": 2})
    assert json.loads((folder / checkpoint.MANIFEST).read_text())["world_size"] == 1
