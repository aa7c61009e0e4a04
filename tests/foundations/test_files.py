"""What is published is written, flushed and renamed in that order, and is whole after any crash."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tglo import files
from tglo.files import DamagedFile, reading, writing

OLD, NEW = {"a": "old", "inner/b": "old"}, {"a": "new", "inner/c": "new"}


class Crash(BaseException):
    """The process ends here: nothing after it reaches the disk."""


class Disk:
    """Records what is flushed, renamed and removed, by name; dies at the `last`-th of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.last = 0
        opened: dict[int, str] = {}
        open_, fsync, replace, rmtree = os.open, os.fsync, os.replace, shutil.rmtree

        def named(path: Any, *rest: Any, **options: Any) -> int:
            handle = open_(path, *rest, **options)
            opened[handle] = Path(path).name
            return handle

        def record(change: Callable[..., None], verb: str) -> Callable[..., None]:
            def changed(first: Any, *rest: Any, **options: Any) -> None:
                name = opened[first] if verb == "flush" else Path(first).name
                if self.last and len(self.calls) >= self.last:
                    raise Crash
                self.calls.append(" ".join([verb, name, *(Path(p).name for p in rest)]))
                change(first, *rest, **options)

            return changed

        monkeypatch.setattr(writing.os, "open", named)
        monkeypatch.setattr(writing.os, "fsync", record(fsync, "flush"))
        monkeypatch.setattr(writing.os, "replace", record(replace, "rename"))
        monkeypatch.setattr(writing.shutil, "rmtree", record(rmtree, "remove"))


def fill(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)


def held(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_file_is_flushed_renamed_and_its_folder_flushed(tmp_path: Path, disk: Disk) -> None:
    files.write_bytes(tmp_path / "x", b"1")
    flushed, renamed, folder = disk.calls
    temporary = flushed.removeprefix("flush ")
    assert renamed == f"rename {temporary} x" and folder == f"flush {tmp_path.name}"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    """`--output /dev/null` of root took the device from the whole machine."""
    pipe, opened = tmp_path / "pipe", tmp_path / "stdout"
    os.mkfifo(pipe)
    with open(tmp_path / "redirected", "w+b") as redirected:
        opened.symlink_to(f"/proc/self/fd/{redirected.fileno()}")
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            for path in (pipe, opened):
                writing.write_bytes(path, b"content")
            assert os.read(reader, 100) == b"content" == (tmp_path / "redirected").read_bytes()
        finally:
            os.close(reader)
    assert pipe.is_fifo() and opened.is_symlink()
    assert {p.name for p in tmp_path.iterdir()} == {"pipe", "stdout", "redirected"}


def test_a_file_whose_writing_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(RuntimeError), files.writing_file(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert held(tmp_path) == {"x": "old"}


def test_a_path_that_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "data.json").mkdir()
    for path, said in ((tmp_path / "data.json", "is a folder"), (tmp_path / "no" / "x", "No such")):
        with pytest.raises(OSError, match=said) as caught:
            files.write_bytes(path, b"new")
        assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["data.json"]


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_is_flushed_with_all_it_holds_before_it_is_renamed(
    tmp_path: Path, disk: Disk, old: bool
) -> None:
    fill(tmp_path / "t", NEW)
    if old:
        fill(tmp_path / "x", OLD)
    files.publish_folder(tmp_path / "t", tmp_path / "x")
    renames = [call for call in disk.calls if call.startswith("rename")]
    assert renames == ["rename x .x.old"] * old + ["rename t x"]
    first = disk.calls.index(renames[0])
    assert {"flush a", "flush c", "flush inner", "flush t"} <= set(disk.calls[:first])
    assert disk.calls[-2:] == [f"flush {tmp_path.name}", "remove .x.old"]
    assert held(tmp_path / "x") == NEW and not (tmp_path / ".x.old").exists()


@pytest.mark.parametrize("old", [False, True])
def test_a_crash_at_any_point_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, disk: Disk, old: bool
) -> None:
    for last in range(1, 20):
        here = tmp_path / str(last)
        fill(here / "t", NEW)
        if old:
            fill(here / "x", OLD)
        disk.calls, disk.last = [], last
        try:
            files.publish_folder(here / "t", here / "x")
            break
        except Crash:
            pass
        finally:
            disk.last = 0
        whole = here / "x" if (here / "x").exists() else here / ".x.old"
        assert held(whole) in ([OLD, NEW] if old else [{}, NEW])
        fill(here / "t", NEW)  # whoever comes next
        files.publish_folder(here / "t", here / "x")
        assert held(here / "x") == NEW
        assert [path.name for path in here.iterdir()] == ["x"]
    assert last == len(disk.calls) >= 7


def test_a_folder_whose_filling_fails_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="choose another folder"):
        with files.writing_folder(tmp_path):
            pass
    fill(tmp_path / "x", OLD)
    with pytest.raises(RuntimeError):
        with files.writing_folder(tmp_path / "x", overwrite=True) as temporary:
            fill(temporary, NEW)
            raise RuntimeError
    assert held(tmp_path) == {f"x/{name}": text for name, text in OLD.items()}


def test_an_old_folder_comes_back_when_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "x", OLD)
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if ".tmp" in str(source):
            raise OSError("No space left on device")
        replace(source, target)

    monkeypatch.setattr(writing.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        with files.writing_folder(tmp_path / "x", overwrite=True) as temporary:
            fill(temporary, NEW)
    assert held(tmp_path) == {f"x/{name}": text for name, text in OLD.items()}


def test_a_claimed_folder_belongs_to_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "new" / "settings.json"
    files.claim_folder(path, {"seed": "0"}, alone=True)
    (path.parent / "image.png").touch()
    files.claim_folder(path, {"seed": "0"}, alone=True)
    with pytest.raises(
        ValueError, match="settings: seed is '0' there and '1' here; steps is 'nothing'"
    ):
        files.claim_folder(path, {"seed": "1", "steps": "2"})
    with pytest.raises(ValueError, match=r"holds files but no other.json"):
        files.claim_folder(path.with_name("other.json"), {}, alone=True)
    with pytest.raises(ValueError, match="is a file; give a folder"):
        files.claim_folder(path / "settings.json", {})
    path.write_text("[]")
    with pytest.raises(ValueError, match="does not hold settings"):
        files.claim_folder(path, {"seed": "0"})


def test_a_full_disk_is_told_with_path_and_bytes(tmp_path: Path, small_disk: Path) -> None:
    whole = small_disk / "x.safetensors"
    files.write_tensors(whole, {"a": torch.zeros(10)})
    before = whole.read_bytes()
    with pytest.raises(files.DiskFull, match=r"x\.safetensors needs 4\.0 MB and could not"):
        files.write_tensors(whole, {"a": torch.zeros(1_000_000)})
    with pytest.raises(files.DiskFull, match=r"y\.bin needs 4\.0 MB"):
        files.write_bytes(small_disk / "y.bin", bytes(4_000_000))
    with (
        pytest.raises(files.DiskFull, match="folder could not be written"),
        files.writing_folder(small_disk / "folder") as temporary,
    ):
        (temporary / "z").write_bytes(bytes(4_000_000))
    assert whole.read_bytes() == before
    assert [path.name for path in small_disk.iterdir()] == ["x.safetensors"]


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path: Path) -> None:
    metadata = {name: "é" + name for name in "qwertyuiopasdfgh"}
    for number in range(4):
        files.write_tensors(tmp_path / str(number), {"a": torch.arange(3)}, metadata)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == metadata
        assert file.get_tensor("a").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "Expecting"),
        ("\xff", "decode"),
        ("[" * 100_000, "nested too deeply|Expecting"),
        ("{}", "it has no 'key'"),
        ("[1]", "another form"),
        ('{"key": []}', "another form"),
    ],
)
def test_a_damaged_file_is_told_with_cause_and_remedy(
    tmp_path: Path, text: str, cause: str
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text.encode("latin-1"))
    wanted = rf"file\.json is damaged or no list of keys \(.*{cause}.*\): write it again"
    with pytest.raises(DamagedFile, match=wanted), reading(path, "list of keys", "write it again"):
        files.read_json(path, "list of keys", "write it again")["key"][0]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.read_json(path)


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    for _ in range(2):
        with (
            files.locked(path, "in use"),
            pytest.raises(ValueError, match="in use"),
            files.locked(path, "in use"),
        ):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_on_a_disk_without_locks_a_folder_is_used_with_a_warning(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "tglo"), files.locked(tmp_path / ".lock", "in use"):
            assert f"the disk of {tmp_path} has no locks" in caplog.text


def test_a_used_up_quota_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(files.DiskFull, match="the quota on the disk is used up: .*x needs 2.0 MB"),
        files.disk_space(tmp_path / "x", 2_000_000),
    ):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_a_folder_that_cannot_be_flushed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    files.flush(tmp_path)
    (tmp_path / "x").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        files.flush(tmp_path / "x")
