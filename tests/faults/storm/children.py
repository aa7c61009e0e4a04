"""Commands in forked children of a process that has torch, diffusers and tglo imported already.

A child is a process of its own: its signals, exit status, locks and memory are real, and only the
seconds of importing are saved. The parent must have one thread, which `run` asserts, since a fork copies
no other. What happens while modules are imported is therefore not tried; nothing is written there.

A child counts its changes of files (Python's audit events), so that it can be killed before the n-th of
them: the same number gives the same moment each time. Moments in seconds reach what lies between.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# diffusers imports onnxruntime where it is installed (the extra ocr), which starts a thread.
sys.modules["onnxruntime"] = None  # type: ignore[assignment]

PATIENCE = 60.0  # seconds until a command counts as hanging
MEMORY = 12 * 2**30  # bytes of address space that a command may take
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Moment:
    """When a signal comes: before the n-th change of a file, before one of a path, or after seconds."""

    signal: signal.Signals
    change: int | None = None
    before: str | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{self.signal.name} after {self.seconds:.3f} s"
        return f"{self.signal.name} before change {self.before or self.change}"


@dataclass(frozen=True)
class Ended:
    """How a command ended. status: negative for a signal, None if it hung. changes: of files."""

    arguments: Sequence[str]
    status: int | None
    text: str
    changes: int
    seconds: float


class Child:
    """A running `tglo ARGUMENTS` whose working folder is `folder`."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        moment: Moment | None = None,
        learn: bool = False,
    ) -> None:
        assert len(os.listdir("/proc/self/task")) == 1, "a process with threads cannot be forked"
        self.arguments, self.moment = arguments, moment
        self._output = folder / f".output-{time.monotonic_ns()}"
        self._output.touch()
        self._modules = self._output.with_suffix(".modules") if learn else None
        self._count = mmap.mmap(-1, 8)
        self._started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_command(folder)

    def wait(self) -> Ended:
        """Wait for the end, after the moment's signal where that is a time."""
        status: int | None = None
        due = self.moment.seconds if self.moment else None
        try:
            while True:
                done, code = os.waitpid(self.pid, os.WNOHANG)
                if done:
                    status = os.waitstatus_to_exitcode(code)
                    break
                passed = time.monotonic() - self._started
                if due is not None and passed >= due:
                    assert self.moment is not None
                    os.kill(self.pid, self.moment.signal)
                    due = None
                if passed > PATIENCE:
                    break
                time.sleep(0.002)
        finally:
            if status is None:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
        text = self._output.read_text(errors="replace")
        self._output.unlink()
        if self._modules is not None and self._modules.exists():
            _import_all(self._modules.read_text().split())
            self._modules.unlink()
        changes = int.from_bytes(self._count[:8], "little")
        return Ended(self.arguments, status, text, changes, time.monotonic() - self._started)

    def _be_the_command(self, folder: Path) -> NoReturn:
        status = 70
        try:
            handle = os.open(self._output, os.O_WRONLY | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(handle, stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            sys.addaudithook(_Watch(folder, self._count, self.moment))
            status = _main(self.arguments)
            if self._modules is not None:
                self._modules.write_text(" ".join(sys.modules))
        finally:
            os._exit(status)


def run(arguments: Sequence[str], folder: Path, moment: Moment | None = None) -> Ended:
    """Run `tglo ARGUMENTS` in `folder` to its end."""
    return Child(arguments, folder, moment).wait()


def in_child(work: Callable[[], object]) -> None:
    """Do some work that may start threads in a child; AssertionError if it fails."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0, "a child failed; what it printed is above"


def _main(arguments: Sequence[str]) -> int:
    """As the interpreter ends the `tglo` script: exit status, traceback, what is registered for the end."""
    from tglo.cli import main

    try:
        status = main(list(arguments))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


class _Watch:
    """An audit hook that counts changes of files in a folder and gives the signal at its moment."""

    def __init__(self, folder: Path, count: mmap.mmap, moment: Moment | None) -> None:
        self._folder, self._count, self._moment = str(folder), count, moment
        self._done = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES and event != "open":
            return
        path = arguments[0]
        if isinstance(path, int) or path is None:
            return
        name = os.fsdecode(path)
        # open() for reading changes nothing; os.open(), without a mode, comes before each fsync.
        reads = event == "open" and arguments[1] is not None and not set("wax+") & set(arguments[1])
        if reads or (name.startswith("/") and not name.startswith(self._folder)):
            return
        self._done += 1
        self._count[:8] = self._done.to_bytes(8, "little")
        moment = self._moment
        if moment is None:
            return
        names = [name, os.fsdecode(arguments[1])] if event == "os.rename" else [name]
        there = moment.before is not None and any(moment.before in each for each in names)
        if there or self._done == moment.change:
            self._moment = None
            os.kill(os.getpid(), moment.signal)


def _import_all(names: Sequence[str]) -> None:
    """Import what a child had to: the next ones have it from the start."""
    for name in names:
        if name not in sys.modules and not name.startswith(("tests", "_")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
