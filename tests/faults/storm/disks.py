"""Full disks: one line, nothing lost, and with more space the same command resumes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.storm.children import in_child
from tests.faults.storm.trial import Skipped, Trial, need, refused
from tests.faults.storm.world import COMMANDS

_PAGE = 4096


def full_disk(name: str) -> Callable[[Trial], None]:
    """A disk of random size under the command's output, enlarged when it was full."""

    def play(trial: Trial) -> None:
        if name == "export":
            trial.start_with("train")
        folder = trial.path(COMMANDS[name].output)
        there = _space(folder) if folder.is_dir() and name != "cache" else 0
        needed = _space(trial.world.done / COMMANDS[name].output) - there
        size = there + _PAGE * round(trial.random.uniform(0.02, 1.5) * needed / _PAGE + 1)
        trial.say(f"a disk of {size} bytes")
        with _disk(folder, size, keep=there > 0):
            ended = trial.run(name)
            if ended.status != 0:
                refused(ended, [folder.name])
                trial.tidy()
                _checkpoints_verify(folder / "checkpoints")
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            trial.finish(name)

    return play


@contextmanager
def _disk(folder: Path, size: int, keep: bool) -> Iterator[None]:
    """Mount a disk of `size` bytes at `folder`, with what is there if it is to be kept."""
    aside = folder.with_name(".aside")
    if folder.exists():
        folder.rename(aside)
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        raise Skipped("a small disk cannot be mounted here")
    try:
        if keep:
            shutil.copytree(aside, folder, dirs_exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _space(folder: Path) -> int:
    """Bytes that a folder takes on such a disk."""
    pages = [-(-path.stat().st_size // _PAGE) + 1 for path in folder.rglob("*")]
    return _PAGE * sum(pages)


def _checkpoints_verify(folder: Path) -> None:
    """The newest checkpoint that was published is whole."""
    published = sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp")
    if not published:
        return

    def check() -> None:
        from tglo.train.checkpoint import newest

        found = newest(folder)
        assert found is not None and found[0] == published[-1], (found, published)

    try:
        in_child(check)
    except AssertionError:
        need(False, f"{published[-1].name} was published and does not verify")
