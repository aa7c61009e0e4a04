"""What a run does now, as far as its files tell: waiting, running, finished, stopped, crashed."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tglo.console.durations import duration
from tglo.train.earlier import CHECKPOINTS
from tglo.watch.metrics_file import MetricsFile

Word = Literal["waiting", "running", "silent", "finished", "stopped", "crashed", "gone"]
_CHECKPOINT = re.compile(r"step-(\d{1,15})")
_PARTS = [
    f"seconds_{part}" for part in ("data", "reference", "policy", "loss", "backward", "update")
]
# A line may be late by a checkpoint, validation images or a compilation.
_LATE, _LEAST_LATE = 5, 60.0
_SILENT, _LEAST_SILENT = 10, 300.0
_RECENT_LINES = 20


@dataclass(frozen=True)
class State:
    """A word, a sentence, and the seconds that are left where the run continues."""

    word: Word
    sentence: str
    seconds_left: float | None = None


def state_of(
    folder: Path, config: dict[str, Any], metrics: MetricsFile, now: float | None = None
) -> State:
    """Say what the run in `folder` does. now: seconds since the epoch.

    A run holds its folder by a lock, which is seen from the same machine (and container) alone; elsewhere
    the age of its last line must do.
    """
    now = time.time() if now is None else now
    if not os.path.isdir(folder):
        return State("gone", "The folder is gone; the curves are what was read of it.")
    last, total = metrics.last("step"), total_steps(config)
    held = is_held(folder / ".lock")
    age = metrics.age(now)
    if math.isnan(last):
        return _without_lines(folder, config, held, now)
    if total is not None and last >= total:
        return _at_the_end(folder, config, held, last)
    pace = seconds_per_step(metrics)
    between = pace * _steps_between(metrics)
    if not held and age > max(_LEAST_LATE, _LATE * between):
        return _ended(folder, last)
    place = f"step {last:,.0f}" + (f" of {total:,}" if total else "")
    if age > max(_LEAST_SILENT, _SILENT * between):
        since = duration(age)
        sentence = f"At {place}; it is still there, but wrote nothing for {since}."
        return State("silent", f"{sentence} Checkpoints and validation images may take long.")
    if not total or not pace:
        return State("running", f"At {place}.")
    left = max(0.0, (total - last) * pace - age)
    return State("running", f"At {place}; about {duration(left)} to go.", left)


def total_steps(config: dict[str, Any]) -> int | None:
    """Return the steps that the run is to make; None where its configuration does not say."""
    steps = table(config, "optimizer").get("steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def table(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a table of a configuration; an empty one where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def seconds_per_step(metrics: MetricsFile) -> float:
    """Return the median over the newest lines of a step's seconds, checkpoints and images not counted."""
    parts = np.stack([metrics.column(name)[-_RECENT_LINES:] for name in _PARTS])
    sums = np.where(np.isfinite(parts), parts, 0.0).sum(0)
    return float(np.median(sums)) if sums.size else 0.0


def _steps_between(metrics: MetricsFile) -> float:
    steps = metrics.column("step")[-_RECENT_LINES:]
    return float(np.median(np.diff(steps))) if len(steps) > 1 else float(steps[-1])


def is_held(lock: Path) -> bool:
    """Return whether a process that can be seen from here holds this lock file.

    It is looked up among the kernel's locks: trying it would refuse a run that starts at that moment.
    """
    try:
        found = lock.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    if os.major(found.st_dev):
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    else:  # btrfs and overlays: the kernel's list has another device than the file
        place = f":{found.st_ino}"
    return any(" FLOCK " in line and f"{place} " in line for line in lines)


def _without_lines(folder: Path, config: dict[str, Any], held: bool, now: float) -> State:
    if not held:
        sentence = "No metrics yet, and no run on this machine holds the folder."
        return State("waiting", sentence)
    if not config:
        return State("waiting", "It is starting: data and model are being read.")
    every = table(config, "output").get("log_every", 10)
    return State("waiting", f"It runs, and writes its first line after {every} steps.")


def _at_the_end(folder: Path, config: dict[str, Any], held: bool, last: float) -> State:
    if table(config, "output").get("export") is False or os.path.isdir(folder / "export"):
        return State("finished", f"All {last:,.0f} steps are done.")
    if held:
        return State("running", f"All {last:,.0f} steps are done; the export is being written.", 0)
    sentence = f"All {last:,.0f} steps are done, but there is no export: tglo export writes it."
    return State("finished", sentence)


def _ended(folder: Path, last: float) -> State:
    """Tell a stop, whose last line and checkpoint are of one step, from an end without a word."""
    newest = _newest_checkpoint(folder)
    if newest is not None and newest >= last:
        return State("stopped", f"Stopped after step {last:,.0f}; the same command resumes.")
    there = "from the start" if newest is None else f"from step {newest:,}"
    return State(
        "crashed",
        f"Ended after step {last:,.0f} without a checkpoint of it: it crashed or was killed. Its last "
        f"lines on the terminal say why; the same command resumes {there}.",
    )


def _newest_checkpoint(folder: Path) -> int | None:
    try:
        names = [path.name for path in (folder / CHECKPOINTS).iterdir()]
    except OSError:
        return None
    steps = [int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    return max(steps, default=None)
