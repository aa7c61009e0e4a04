"""Folders of runs: found, named, and read as they grow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tglo.train.earlier import PARTS
from tglo.watch.metrics_file import MetricsFile
from tglo.watch.samples import Sample, Samples
from tglo.watch.state import State, state_of, table

DEPTH = 5  # folders below the given one
_LOOK_AGAIN = 5.0  # seconds between searches for new runs
_INSIDE = {name for name in PARTS if "." not in name}


class Run:
    """A run's folder with all that was read of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.config: dict[str, Any] = {}
        self.samples: list[Sample] = []
        self.files = Samples(folder)
        self._config_changed = -1

    def poll(self, most: int) -> bool:
        """Read what is new; return whether more of the metrics is waiting."""
        self._read_config()
        if os.path.isdir(self.folder):  # of one that is gone, what was read stays
            self.samples = self.files.poll()
        return self.metrics.poll(most)

    def state(self) -> State:
        """Say what the run does now."""
        return state_of(self.folder, self.config, self.metrics)

    def prompts(self) -> list[str]:
        """Return the validation prompts."""
        found = table(self.config, "output").get("validation_prompts")
        return [str(prompt) for prompt in found] if isinstance(found, list) else []

    def _read_config(self) -> None:
        path = self.folder / "config.json"
        try:
            changed = path.stat().st_mtime_ns
            if changed != self._config_changed:
                self._config_changed = changed
                self.config = read_config(path)
        except OSError:
            pass


class Runs:
    """The runs that were asked for, and those that appear below the same folders later."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._given = list(places)
        self.places = [Path(os.path.abspath(place)) for place in places]
        self._runs: dict[Path, Run] = {}
        self._looked = -_LOOK_AGAIN
        for place in self.places:
            _require(place)
        self._look()

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __len__(self) -> int:
        return len(self._runs)

    def awaited(self) -> list[str]:
        """Return the places, as they were given, at which there has been no run yet."""
        return [
            str(given)
            for given, place in zip(self._given, self.places, strict=True)
            if not any(folder.is_relative_to(place) for folder in self._runs)
        ]

    def poll(self, most: int = 2**62) -> bool:
        """Read what is new of all runs, about `most` bytes of each; return whether more is waiting."""
        if time.monotonic() - self._looked > _LOOK_AGAIN:
            self._look()
        return any([run.poll(most) for run in self])

    def _look(self) -> None:
        self._looked = time.monotonic()
        for place in self.places:
            for folder in find_runs(place):
                if folder not in self._runs:
                    self._runs[folder] = Run(folder)
        self._name()

    def _name(self) -> None:
        """Name each run by its path below the folder that all have in common."""
        folders = list(self._runs)
        if len(folders) > 1:
            common = Path(os.path.commonpath(folders))
            for folder, run in self._runs.items():
                run.name = folder.relative_to(common).as_posix() if folder != common else "."


def find_runs(place: Path) -> Iterator[Path]:
    """Yield a run's folder itself, or those below a folder, in order of their names.

    What a run holds is not searched, the earlier runs that were set aside in it included.
    """
    if is_run(place):
        yield place
        return
    for at, folders, _ in os.walk(place, onerror=None):
        here = Path(at)
        if here != place and is_run(here):
            yield here
            folders.clear()
        depth = len(here.relative_to(place).parts)
        inside = [name for name in folders if depth < DEPTH and _may_hold_runs(name)]
        folders[:] = sorted(inside)


def _may_hold_runs(name: str) -> bool:
    return not name.startswith(".") and name not in _INSIDE


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's: it has metrics, or the configuration of a training.

    One that a run has only locked so far counts too.
    """
    if os.path.isfile(folder / "metrics.jsonl"):  # where nothing may be looked at, False
        return True
    try:
        return {"optimizer", "output"} <= read_config(folder / "config.json").keys()
    except OSError:
        return _only_locked(folder)


def _only_locked(folder: Path) -> bool:
    try:
        return [entry.name for entry in folder.iterdir()] == [".lock"]
    except OSError:
        return False


def read_config(path: Path) -> dict[str, Any]:
    """Return a config.json; an empty one where it holds something else. OSError where there is none."""
    try:
        found = json.loads(path.read_bytes(), parse_int=_number)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(text: str) -> int | float:
    """Read a whole number; one that no setting can be as a float, whose digits do not matter."""
    return int(text) if len(text) < 19 else float(text)


def _require(place: Path) -> None:
    """Raise ValueError unless a place is a run's folder or one with runs below it, or may become one."""
    if not place.exists():  # a run makes its folder when it starts
        return
    if not place.is_dir():
        raise ValueError(f"{place} is a file; give the folder of a run, which has a metrics.jsonl")
    if next(find_runs(place), None) is None and any(place.iterdir()):
        raise ValueError(
            f"{place} is no run's folder and has none below it: there is no metrics.jsonl and no "
            "config.json of a training. Give output.folder of a run's TOML file; of a run that is still to "
            "start as well"
        )
