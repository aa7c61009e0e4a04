"""One checkpoint on its way to the disk, and the thread that takes it there while training continues."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tglo.files import disk_space, flush, publish_folder, sha256_file
from tglo.train import checkpoint_manifest as manifest
from tglo.train import processes

FAILURES = (OSError, RuntimeError, SafetensorError)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the older ones are untouched."""


class Draft:
    """The steps from nothing to a whole checkpoint at `final`; none of them communicates."""

    def __init__(
        self,
        final: Path,
        write: Callable[[Path], None],
        state: dict[str, Any],
        needed: int | None = None,
    ) -> None:
        self.final = final
        self.temporary = final.with_name(f"{final.name}.tmp")
        self._write = write
        self._state = state
        self._needed = needed

    def begin(self) -> None:
        """Make an empty folder, and remove what earlier ones left."""
        remove_unfinished(self.final.parent)
        self.temporary.mkdir(parents=True)

    def fill(self) -> None:
        """Write this rank's files."""
        with disk_space(self.final, self._needed):
            self._write(self.temporary)

    def describe(self, names: Collection[str] | None = None) -> dict[str, manifest.Entry]:
        """Flush and hash the files of these names; without names, this rank's share of what all ranks wrote."""
        with disk_space(self.final, self._needed):
            return _describe(self.temporary, names)

    def publish(self, files: dict[str, manifest.Entry], world_size: int) -> None:
        """Write the manifest and give the folder its name."""
        with disk_space(self.final, self._needed):
            manifest.write(self.temporary, files, self._state, world_size)
            publish_folder(self.temporary, self.final)

    def discard(self) -> None:
        """Remove what has been written."""
        shutil.rmtree(self.temporary, ignore_errors=True)

    def error(self, cause: BaseException) -> CheckpointError:
        """Return the message for the user."""
        return CheckpointError(
            f"checkpoint {self.final.name} was not written: {cause}. Older checkpoints are unharmed: "
            "the same command resumes from the newest of them"
        )


class Writing:
    """A thread that writes a draft; of a run of one process whole, which it publishes before it calls `done`; else
    this rank's files of these `names`, in a folder that is there.

    It ends with the process, which waits for it only in `wait`.
    """

    def __init__(
        self, draft: Draft, done: Callable[[], None], names: Collection[str] | None = None
    ) -> None:
        self.draft = draft
        self.files: dict[str, manifest.Entry] = {}
        """What was written, at its end."""
        self._done = done
        self._names = names
        self._abandoned = False
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._work, name="tglo-checkpoint", daemon=True).start()

    @property
    def going_on(self) -> bool:
        """Whether it still writes."""
        return not self._ended.is_set()

    def wait(self) -> None:
        """Wait for its end, and raise what it raised. After Ctrl-C meanwhile nothing is published."""
        try:
            self._ended.wait()
        except BaseException:
            self.abandon()
            raise
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Let nothing be published from now on."""
        self._abandoned = True

    def _work(self) -> None:
        draft, alone = self.draft, self._names is None
        try:
            if alone:
                draft.begin()
            draft.fill()
            self.files = draft.describe(self._names)
            if not alone:
                return
            if self._abandoned:
                draft.discard()
                return
            draft.publish(self.files, world_size=1)
            self._done()
        except BaseException as error:
            self._error = error
            if alone:
                draft.discard()
        finally:
            self._ended.set()


def remove_unfinished(root: Path) -> None:
    """Remove what kills left of checkpoints that were written, replaced or removed: no one reads it."""
    for leftover in (*root.glob("step-*.tmp"), *root.glob(".step-*.old")):
        shutil.rmtree(leftover, ignore_errors=True)


def _describe(folder: Path, names: Collection[str] | None) -> dict[str, manifest.Entry]:
    if names is None:
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        paths = paths[processes.rank() :: processes.world_size()]
    else:
        paths = [folder / name for name in names]
    entries: dict[str, manifest.Entry] = {}
    for path in paths:
        flush(path)
        entries[path.relative_to(folder).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    return entries
