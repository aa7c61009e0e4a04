"""Kills, stop signals and two at once: the same command ends with the same bytes."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.faults.storm.children import Child, Ended, Moment
from tests.faults.storm.trial import NotSurvived, Trial, need, refused
from tests.faults.storm.world import COMMANDS


def interrupted(name: str, number: signal.Signals) -> Callable[[Trial], None]:
    """Send the signal at one to three random moments; between them the same command starts again."""

    def play(trial: Trial) -> None:
        _prepare(trial, name)
        for _ in range(trial.random.randint(1, 3)):
            moment = _moment(trial, name, number)
            trial.say(str(moment))
            ended = trial.run(name, moment)
            if number == signal.SIGKILL:
                need(ended.status in (0, -number), "the same command does not resume", ended)
            else:
                _stopped(trial, name, ended)
            if name == "export" and trial.path("exported/model").exists():
                break  # it is made once only
        trial.finish(name)

    return play


def twice(name: str) -> Callable[[Trial], None]:
    """Start the same command two times at once: they share the work or one is told to wait."""

    def play(trial: Trial) -> None:
        _prepare(trial, name)
        arguments = COMMANDS[name].arguments
        trial.say("two at once")
        children = [Child(arguments, trial.folder) for _ in range(2)]
        ends = [trial.ended(child) for child in children]
        for ended in ends:
            if ended.status != 0:
                refused(ended, ("in use", "exists"))
        need(any(ended.status == 0 for ended in ends), "neither made it", ends[0])
        trial.same(name)
        trial.tidy()

    return play


def _stopped(trial: Trial, name: str, ended: Ended) -> None:
    """A stop gives 0 or 143 and a word about it; before the first change and after the last it may be mute."""
    if ended.status == -signal.SIGTERM and ended.changes > 0:
        try:
            trial.same(name)  # it was only on its way out
        except (NotSurvived, OSError):
            need(False, "ended by SIGTERM in the middle of its work, status -15", ended)
    need(ended.status in (0, 143, -signal.SIGTERM), f"status {ended.status} after a stop", ended)
    need(bool(ended.text.strip()) or ended.changes == 0, "stopped without a word", ended)


def _prepare(trial: Trial, name: str) -> None:
    if name == "export":
        trial.start_with("train")
    elif name == "cache":
        for path in sorted(trial.path("cache").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        trial.path("cache").rmdir()


def _moment(trial: Trial, name: str, number: signal.Signals) -> Moment:
    """Two of three by the number of a change, which a seed repeats; else by the clock."""
    if trial.random.random() < 2 / 3 or trial.repeatable:
        return Moment(number, change=trial.random.randint(1, trial.world.changes[name]))
    return Moment(number, seconds=trial.random.uniform(0, 1.1 * trial.world.seconds[name]))
