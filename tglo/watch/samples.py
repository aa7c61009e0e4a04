"""The validation images of a run: which there are, and the one file that a request names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tglo.train.earlier import SAMPLES

_STEP = re.compile(r"step-(\d{1,15})")
_FILE = re.compile(r"(\d{1,6})\.(png|mp4)")


@dataclass(frozen=True)
class Sample:
    """A validation image, or a video with a sheet of its frames, of a step."""

    step: int
    number: int
    """Of its prompt, from 0."""
    version: int
    """Changes when the file does."""
    video: bool = False


class Samples:
    """The validation images below a run's folder; a step's folder is looked into once, unless it changes."""

    def __init__(self, folder: Path) -> None:
        self.run, self.folder = folder, folder / SAMPLES
        self._seen: dict[str, tuple[int, list[Sample]]] = {}

    def poll(self) -> list[Sample]:
        """Return all samples that there are now, by step and number."""
        try:
            if not self._is_of_the_run(self.folder):
                return []
            names = [path for path in self.folder.iterdir() if _STEP.fullmatch(path.name)]
        except OSError:
            names = []
        self._seen = {path.name: seen for path in names if (seen := self._step(path)) is not None}
        found = [sample for _, samples in self._seen.values() for sample in samples]
        return sorted(found, key=lambda sample: (sample.step, sample.number))

    def _step(self, folder: Path) -> tuple[int, list[Sample]] | None:
        try:
            changed = folder.stat().st_mtime_ns
            before = self._seen.get(folder.name)
            if before is not None and before[0] == changed:
                return before
            files = [match for p in folder.iterdir() if (match := _FILE.fullmatch(p.name))]
        except OSError:  # removed meanwhile
            return None
        step = int(folder.name.partition("-")[2])
        videos = {match[1] for match in files if match[2] == "mp4"}
        images = [match[1] for match in files if match[2] == "png"]
        version = changed // 1_000_000
        return changed, [Sample(step, int(n), version, n in videos) for n in images]

    def file(self, step: str, name: str) -> Path | None:
        """Return the file that a request names; None for whatever is no validation image of this run."""
        if not _STEP.fullmatch(step) or not _FILE.fullmatch(name):
            return None
        path = self.folder / step / name
        return path if self._is_of_the_run(path) and os.path.isfile(path) else None

    def _is_of_the_run(self, path: Path) -> bool:
        """Say whether no link leads out of the run's folder: who writes it must not choose what is read elsewhere."""
        return os.path.realpath(path).startswith(os.path.realpath(self.run) + os.sep)


def address(sample: Sample, video: bool = False) -> str:
    """Return the last part of a sample's address: STEP/FILE."""
    return f"step-{sample.step:08d}/{sample.number:03d}.{'mp4' if video else 'png'}"
