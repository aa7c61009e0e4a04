"""Checkpoints that are either whole or absent.

A checkpoint is written to ``step-N.tmp``, described by a manifest, and published as a whole; only then
does ``latest`` name it. Whatever a crash leaves behind is recognised: a ``.tmp`` folder is ignored, and
a folder whose files do not match its manifest is skipped, and never counts among those that are kept.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tglo.files import write_bytes
from tglo.train import checkpoint_manifest as manifest
from tglo.train import processes
from tglo.train.checkpoint_draft import FAILURES, CheckpointError, Draft, Writing

log = logging.getLogger("tglo")
NAME = re.compile(r"step-(\d+)")


class Checkpoints:
    """The checkpoints of one run, in the folder `root`; the `keep` newest stay."""

    def __init__(self, root: Path, keep: int) -> None:
        self.root = root
        self.keep = keep
        self.refused: dict[Path, str] = {}
        """Those that cannot be used, and why; they do not count among those that are kept."""
        self._writing: Writing | None = None

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        state: dict[str, Any],
        needed: int | None = None,
    ) -> Path:
        """Write checkpoint `step`; collective.

        ``write(folder)`` writes this rank's files, ``state`` is the JSON that comes back, and
        ``needed`` the bytes of all files, for the message. Raises CheckpointError on every rank if any
        rank could not write, for example because the disk is full.
        """
        self.wait()
        draft = Draft(self._folder(step), write, state, needed)
        with _failing(draft):
            processes.on_main(draft.begin)
            processes.together(draft.fill)
        self._publish(draft, draft.describe)
        return draft.final

    def start(
        self,
        step: int,
        write: Callable[[Path], None],
        state: dict[str, Any],
        needed: int | None = None,
        names: Collection[str] = (),
    ) -> None:
        """Write checkpoint `step` as `save` does, in a thread of each process; collective.

        ``write`` reads nothing that training changes, and ``names`` are those of the files that it writes, which
        several processes must say. At most one is written at a time: another one is waited for. If it fails, `look`
        or `wait` raises CheckpointError. Several processes publish it there, where they meet.
        """
        self.wait()
        draft = Draft(self._folder(step), write, state, needed)

        def done() -> None:
            self.refused.pop(draft.final, None)
            self._tidy(draft.final)

        if processes.world_size() == 1:
            self._writing = Writing(draft, done)
            return
        with _failing(draft):
            processes.on_main(draft.begin)
        self._writing = Writing(draft, done, names)

    @property
    def writing(self) -> bool:
        """Whether this process still writes a checkpoint that was started."""
        return self._writing is not None and self._writing.going_on

    def look(self, anyone: bool) -> None:
        """Publish a checkpoint that was started, or raise CheckpointError if it has failed; waits for nothing.

        anyone: whether, when all ranks last met, one of them was `writing`; all of them say the same.
        """
        if not anyone:
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint that was started is whole; CheckpointError if it failed; collective."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        if processes.world_size() == 1:
            with _failing(writing.draft, discards=False):
                writing.wait()
            return
        self._publish(writing.draft, lambda: _files(writing))

    def _publish(self, draft: Draft, describe: Callable[[], dict[str, manifest.Entry]]) -> None:
        """Publish what each rank describes; collective."""
        with _failing(draft):
            described = processes.gather(processes.together(describe))
            files = {name: entry for part in described for name, entry in part.items()}
            processes.on_main(lambda: draft.publish(files, processes.world_size()))
        self.refused.pop(draft.final, None)
        self.go_on_from(draft.final)

    @contextmanager
    def finished(self) -> Iterator[None]:
        """Wait at the end of the block for the checkpoint that was started in it; not after Ctrl-C, nor, of several
        processes, after what may have happened to this one alone, where it could not meet the others.
        """
        try:
            yield
        except BaseException as error:
            # The guard raises these, on every rank.
            met = processes.world_size() == 1 or isinstance(error, FloatingPointError)
            if isinstance(error, KeyboardInterrupt) or not met:
                if self._writing is not None:
                    self._writing.abandon()
                raise
            try:
                self.wait()
            except CheckpointError as error:  # told, but not instead of what ended the run
                log.warning("%s", error)
            raise
        self.wait()

    def whole(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the checkpoints that verify, each with its state, from the newest on; collective.

        Rank 0 verifies; every rank gets the same answers.
        """
        for folder in processes.from_main(self._found):
            read = partial(_read, folder)
            state, problem = processes.from_main(read)
            if state is None:
                self.refuse(folder, problem)
            else:
                yield folder, state

    def refuse(self, folder: Path, problem: str) -> None:
        """Mark a checkpoint that cannot be used; on every rank."""
        self.refused[folder] = problem
        if processes.rank() == 0:
            log.warning("ignoring checkpoint %s: %s", folder, problem)

    def go_on_from(self, folder: Path) -> None:
        """Let `latest` name the checkpoint that a run resumes from, and remove those that are not kept
        beside it, as a kill may have prevented; collective.
        """
        processes.on_main(lambda: self._tidy(folder))

    def _tidy(self, folder: Path) -> None:
        try:
            self._point_to(folder)
            self._prune(folder)
        except OSError as error:  # the checkpoint itself is written, so the run continues
            log.warning("the checkpoints beside %s could not be tidied up: %s", folder, error)

    def _found(self) -> list[Path]:
        for leftover in self.root.glob("step-*.tmp"):
            log.warning("ignoring %s: it was never finished", leftover)
        return _folders(self.root)

    def _folder(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"

    def _point_to(self, folder: Path) -> None:
        latest, line = self.root / "latest", f"{folder.name}\n".encode()
        if not latest.is_file() or latest.read_bytes() != line:
            write_bytes(latest, line)

    def _prune(self, newest: Path) -> None:
        """Remove what is older than the newest `keep`: `newest`, which is known to be whole, and those
        before it that are whole by presence and sizes.

        What has a higher number is not of this run, which would have resumed from it: it was found
        damaged, or someone put it there.
        """
        older = [f for f in _folders(self.root) if _step(f) < _step(newest)]
        whole = [f for f in older if f not in self.refused and not _torn(f)]
        if len(whole) < self.keep:
            return
        kept = whole[: self.keep - 1]
        for folder in older:
            beyond = not kept or _step(folder) < _step(kept[-1])
            if beyond and (folder / manifest.FILE).is_file():
                # Renamed first: `remove_unfinished` finds what a kill leaves of it.
                shutil.rmtree(folder.replace(folder.with_name(f".{folder.name}.old")), True)


def newest(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint under `root` that verifies, and its state; None if there is none."""
    return next(Checkpoints(root, keep=1).whole(), None)


@contextmanager
def _failing(draft: Draft, *, discards: bool = True) -> Iterator[None]:
    """Turn what keeps a draft from being written into CheckpointError."""
    try:
        yield
    except FAILURES as error:
        if discards and processes.rank() == 0:
            draft.discard()
        raise draft.error(error) from error


def _files(writing: Writing) -> dict[str, manifest.Entry]:
    writing.wait()
    return writing.files


def _step(folder: Path) -> int:
    match = NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1])


def _folders(root: Path) -> list[Path]:
    """Return the folders with the name of a checkpoint and something in them, newest first."""
    named = [p for p in root.glob("step-*") if NAME.fullmatch(p.name) and p.is_dir()]
    return sorted((p for p in named if any(p.iterdir())), key=_step, reverse=True)


def _read(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the state of a checkpoint that verifies, or None and what is wrong with it."""
    problem = manifest.problem(folder)
    if problem is not None:
        return None, problem
    content = manifest.read(folder)
    if not content.sealed:
        log.warning("%s: its manifest has no checksum, an earlier tglo wrote it", folder)
    return content.state, ""


def _torn(folder: Path) -> bool:
    return manifest.problem(folder, contents=False) is not None
