"""What a killed writer of a folder leaves is removed by the next; what a living one fills is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tglo.files import claim_folder, leftovers, remove_leftovers, writing_folder
from tglo.files.disk_clock import disk_time
from tglo.files.leftovers import temporary_file, temporary_folder

WRITER = """
import sys, time
from pathlib import Path
from tglo.files import writing_folder
with writing_folder(Path(sys.argv[1])) as temporary:
    (temporary / "half").write_text("half")
    print(temporary, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that is filling tmp_path/export, and the folder that it fills."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "export")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        try:
            yield process, folder
        finally:
            process.kill()


def write(path: Path) -> None:
    with writing_folder(path, overwrite=True) as temporary:
        (temporary / "a").write_text("a")


def test_a_killed_writers_folder_is_removed_by_the_next_and_a_living_ones_is_kept(
    writer: tuple[subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    process, folder = writer
    assert (folder / "half").exists()
    write(tmp_path / "export")
    remove_leftovers(tmp_path)
    assert (folder / "half").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    write(tmp_path / "other")
    assert folder.exists()  # another name's
    write(tmp_path / "export")
    assert sorted(os.listdir(tmp_path)) == ["export", "other"]


def test_those_of_other_machines_go_after_a_day(tmp_path: Path) -> None:
    names = (".export.0badcafe-0123456789abcdef.tmp", ".export.0123456789abcdef.tmp")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    for name in names:
        for path in (tmp_path / name / "half", tmp_path / name):
            os.utime(path, (0, path.stat().st_mtime - leftovers.DEAD_AFTER - 60))
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_link_is_no_leftover(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / f".export.{leftovers.MACHINE}-0123456789abcdef.tmp").symlink_to(tmp_path / "mine")
    remove_leftovers(tmp_path)
    assert (tmp_path / "mine").exists() and len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with (
        pytest.raises(FileExistsError, match="export exists"),
        writing_folder(tmp_path / "export") as temporary,
    ):
        (temporary / "a").write_text("second")
        with writing_folder(tmp_path / "export") as first:
            (first / "a").write_text("first")
    assert (tmp_path / "export/a").read_text() == "first"
    assert os.listdir(tmp_path) == ["export"]


def test_a_file_of_a_dead_process_goes_when_its_folder_is_claimed(tmp_path: Path) -> None:
    with temporary_file(tmp_path / "alive.json") as alive:
        dead = tmp_path / f".dead.json.{leftovers.MACHINE}-0123456789abcdef.tmp"
        dead.write_text("half")
        alive.write_text("whole")
        claim_folder(tmp_path / "settings.json", {"a": "1"})
        assert alive.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_a_signal_between_making_and_locking_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(leftovers.fcntl, "flock", stopped)
    for temporary in (temporary_file, temporary_folder):
        with pytest.raises(KeyboardInterrupt), temporary(tmp_path / "x"):
            pass
    assert not [*tmp_path.iterdir()]


def test_what_another_program_named_is_not_touched(tmp_path: Path) -> None:
    theirs = tmp_path / ".vim.backup.tmp"
    theirs.mkdir()
    os.utime(theirs, (0, 0))
    remove_leftovers(tmp_path)
    assert theirs.is_dir()


def test_a_clock_ahead_does_not_make_what_another_machine_fills_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / f".a.{'0' * 8}-{'1' * 16}.tmp"
    theirs.touch()
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * leftovers.DEAD_AFTER)
    remove_leftovers(tmp_path)
    assert theirs.exists()
    assert abs(disk_time(tmp_path) - theirs.stat().st_mtime) < 60
    assert disk_time(tmp_path / "nowhere") == pytest.approx(time.time(), abs=60)
