"""One trial: a fresh copy of the world, randomness of its own, and the rules by which it was survived."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.faults.storm.children import Child, Ended, Moment
from tests.faults.storm.world import COMMANDS, World, result, unlike

_BAR = re.compile(r"^.*\d%\|.*\n?|\x1b\[A", re.MULTILINE)  # of progress
_LEFT_OVER = re.compile(r"\.tmp|\.old$|\.partial$|\.batch$")
_INTERNAL = re.compile(
    r"\b(Key|Attribute|Index|Unicode\w*|Recursion|Assertion|Safetensor)Error\b"
    r"|NoneType|object (is not|has no|cannot|does not)|not subscriptable|unexpected keyword"
    r"|positional argument|invalid literal|could not convert string"
)


class NotSurvived(Exception):
    """What should have been, and what was."""


class Skipped(Exception):
    """This fault cannot be made here, and why."""


class Trial:
    """A copy of the world in `folder` and what is known of the trial.

    what: the fault, in words; each kind fills it in as it goes. repeatable: no moments by the clock.
    """

    def __init__(
        self, kind: str, seed: int, world: World, folder: Path, repeatable: bool = False
    ) -> None:
        self.world, self.folder, self.repeatable = world, folder, repeatable
        self.random = random.Random(f"{kind} {seed}")
        self.numbers = np.random.default_rng([seed, *kind.encode()])
        self.what: list[str] = []
        shutil.copytree(world.base, folder)

    def say(self, text: str) -> None:
        self.what.append(text)

    def path(self, name: str) -> Path:
        return self.folder / name

    def run(self, name: str, moment: Moment | None = None) -> Ended:
        """Run one of COMMANDS; NotSurvived if it hangs, crashes the process or shows a traceback."""
        return self.arguments(COMMANDS[name].arguments, moment)

    def arguments(self, arguments: list[str], moment: Moment | None = None) -> Ended:
        """The same for any arguments of tglo."""
        return self.ended(Child(arguments, self.folder, moment), moment)

    def ended(self, child: Child, moment: Moment | None = None) -> Ended:
        """The same for a command that was started."""
        ended = child.wait()
        need(ended.status is not None, "it hangs", ended)
        need("Traceback" not in ended.text, "a traceback", ended)
        own = (-moment.signal,) if moment else ()
        need(ended.status in (0, 1, 143, *own), f"exit status {ended.status}", ended)
        return ended

    def start_with(self, name: str) -> None:
        """Put the finished output of a command into the trial's folder."""
        folder = COMMANDS[name].output
        shutil.copytree(self.world.done / folder, self.path(folder), dirs_exist_ok=True)

    def start_half(self) -> None:
        """Put the run that was killed half-way into the trial's folder."""
        shutil.copytree(self.world.half, self.path("run"))

    def finish(self, name: str) -> None:
        """Run a command to its end and compare what it made with the truth, to the last file."""
        if not (name == "export" and self.path("exported/model").exists()):  # it is made once only
            ended = self.run(name)
            need(ended.status == 0, f"`tglo {name}` does not end well", ended)
        self.same(name)
        self.tidy()

    def same(
        self, name: str, exact: bool = True, without: Iterable[str] = (), logs: bool = True
    ) -> None:
        """NotSurvived unless the command made what it makes undisturbed.

        exact: nothing more is there. without: files that do not count. logs: whether metrics do.
        """
        truth = {k: v for k, v in self.world.truth[name].items() if k not in without}
        if not logs:
            truth = {k: v for k, v in truth.items() if not k.endswith("metrics.jsonl")}
        problem = unlike(result(name, self.folder), truth, exact)
        need(not problem, f"`tglo {name}` made something else: {problem}")

    def tidy(self) -> None:
        """NotSurvived if anything temporary is left."""
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")]
        left = [name for name in names if _LEFT_OVER.search(name)]
        need(not left, f"left over: {', '.join(left[:3])}")

    def refused_or_same(self, ended: Ended, name: str, about: Iterable[str]) -> None:
        """NotSurvived unless it was refused in one line about one of these, or made the right result."""
        if ended.status == 0:
            self.same(name, exact=False)
        else:
            refused(ended, about)


def need(holds: bool, problem: str, ended: Ended | None = None) -> None:
    """NotSurvived(problem) unless it holds; ended: whose output is shown."""
    if not holds:
        lines = [] if ended is None else _BAR.sub("", ended.text).split("\n")
        lines = [line for line in lines if line.strip()]
        raise NotSurvived("\n".join([problem, *(line[:1000] for line in lines[-12:])]))


def refused(ended: Ended, about: Iterable[str] = ()) -> None:
    """NotSurvived unless the exit status is 1 after a single clear line that names one of these."""
    need(ended.status == 1, "not refused", ended)
    lines = ended.text.replace("\r", "\n").rstrip().split("\n")
    ours = [number for number, line in enumerate(lines) if line.startswith("tglo: ")]
    need(len(ours) == 1 and ours[0] == len(lines) - 1, "not refused in one line", ended)
    found = _INTERNAL.search(lines[-1])
    need(found is None, f"the line is internal ({found and found[0]!r})", ended)
    names = [name for name in about if name]
    need(
        not names or any(name.lower() in lines[-1].lower() for name in names),
        f"the line names none of {names}",
        ended,
    )


def parts(path: Path, folder: Path) -> list[str]:
    """The names that a line may call a file by: its own, and those of its folders."""
    inside = path.relative_to(folder)
    return [inside.stem, *(part for part in inside.parts if len(part) > 2)]
