"""The tiny world that each trial gets a copy of, and the truth that its results are compared with.

A tiny Stable Diffusion folder, a dozen images with scores, their cache with the reference's errors, and
a run of eight steps. What the commands make undisturbed is the truth.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tomli_w
from PIL import Image

from tests import tiny
from tests.faults.storm.children import Child, Moment, in_child
from tests.golden.outputs import digests, metrics

ROWS = 12
SIZES = [(16, 16), (16, 24), (24, 16)]  # height, width of the images
KEEP = 2
CONFIG: dict[str, dict[str, object]] = {
    "model": {"path": "./model", "train": "full"},
    "data": {
        "manifest": "photos/scored.csv",
        "cache": "cache",
        "threshold": "threshold.json",
        "draws": 2,
    },
    "objective": {"reference": "cached", "temperature": 0.1},
    "optimizer": {"steps": 8, "micro_batch": 2, "learning_rate": 1e-3, "ema_decay": 0.9},
    "engine": {"device": "cpu", "kind": "plain"},
    "output": {
        "folder": "run",
        "log_every": 1,
        "save_every": 2,
        "keep": KEEP,
        "progress": False,
        "validation_prompts": ["a temple"],
        "validation_every": 3,
        "validation_steps": 2,
    },
}
Result = dict[str, object]


@dataclass(frozen=True)
class Command:
    """A line of tglo's arguments, and the folder that it makes; only: the one file of it that it makes."""

    line: str
    output: str
    only: str | None = None

    @property
    def arguments(self) -> list[str]:
        return self.line.split()


COMMANDS = {
    "cache": Command("cache run.toml --resolution 16 --batch-size 4", "cache"),
    "train": Command("train run.toml", "run"),
    "export": Command("export run --output exported/model", "exported"),
    "generate": Command(
        "generate --model ./model --prompts prompts.txt --output images --count 2 --batch-size 2 "
        "--steps 2 --guidance 2 --device cpu",
        "images",
    ),
    "score": Command(
        "score photos/rows.csv --scorer ink --scorer colourfulness --output photos/scores.csv "
        "--batch-size 2",
        "photos",
        only="scores.csv",
    ),
    "evaluate": Command(
        "evaluate --base ./model --models same=./model --prompts own=prompts.txt --scorers ink "
        "--output evaluation --count 1 --resamples 100 --batch-size 2 --steps 2 --guidance 2 "
        "--device cpu",
        "evaluation",
    ),
}


@dataclass
class World:
    """base: what a trial's folder is a copy of, without any output but the cache.

    truth, seconds, changes: of each command, left alone.
    """

    folder: Path
    truth: dict[str, Result] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def half(self) -> Path:
        """The folder of a run that was killed with checkpoints of steps 2 and 4."""
        return self.folder / "half"

    @property
    def done(self) -> Path:
        """A folder in which every command was left alone to its end."""
        return self.folder / "done"

    def prepare(self) -> None:
        """Make all of it. Every command runs twice: a second time with all modules there, as in trials."""
        self.base.mkdir(parents=True)
        _inputs(self.base)
        self._make("cache", self.base)
        shutil.copytree(self.base, self.done)
        for name in COMMANDS:
            if name != "cache":
                self._make(name, self.done)
        for name, command in COMMANDS.items():
            again = shutil.copytree(self.done, self.folder / "again")
            if command.only is None:
                shutil.rmtree(again / command.output)
            else:
                (again / command.output / command.only).unlink()
            self._make(name, again)
            shutil.rmtree(again)
        killed = shutil.copytree(self.base, self.folder / "killed")
        moment = Moment(signal.SIGKILL, before="step-00000006")
        Child(COMMANDS["train"].arguments, killed, moment).wait()
        (killed / "run").rename(self.half)
        shutil.rmtree(killed)

    def _make(self, name: str, folder: Path) -> None:
        ended = Child(COMMANDS[name].arguments, folder, learn=True).wait()
        assert ended.status == 0, ended.text
        found = result(name, folder)
        problem = unlike(found, self.truth.setdefault(name, found))
        assert not problem, f"two undisturbed runs of {name} differ: {problem}"
        self.seconds[name], self.changes[name] = ended.seconds, ended.changes


def result(name: str, folder: Path) -> Result:
    """What a command made, comparable: digests of files by name; of a run's metrics all but the times,
    and of its checkpoints the newest.
    """
    command = COMMANDS[name]
    output = folder / command.output
    if command.only is not None:
        return {command.only: (output / command.only).read_bytes().hex()}
    found: Result = {k: v for k, v in digests(output).items() if not k.endswith(".lock")}
    if name != "train":
        return found
    found.pop("metrics.jsonl", None)
    found |= _metrics(output)
    steps = sorted({m[0] for file in found if (m := re.match(r"checkpoints/step-\d+(?=/)", file))})
    plain: Result = {"more checkpoints than are kept": True} if len(steps) > KEEP else {}
    for file, value in found.items():
        step = re.match(r"checkpoints/step-\d+(?=/)", file)
        if step is None or step[0] == steps[-1]:
            plain[file] = value
    return plain


def _metrics(output: Path) -> Result:
    try:
        lines = metrics(output)
    except (OSError, ValueError):
        return {}  # all lines are missing
    return {f"line {number} of metrics.jsonl": line for number, line in enumerate(lines, start=1)}


def unlike(found: Result, truth: Result, exact: bool = True) -> str:
    """Name what differs, is missing or (if exact) is more than in the truth; "" if nothing is."""
    missing = [f"{name} is missing" for name in truth if name not in found]
    more = [f"{name} is left over" for name in found if name not in truth] if exact else []
    other = [
        f"{name} differs{_keys(found[name], truth[name])}"
        for name in truth
        if name in found and found[name] != truth[name]
    ]
    problems = [*missing, *more, *other]
    return "; ".join(problems[:4]) + ("" if len(problems) <= 4 else f"; {len(problems)} in all")


def _keys(one: object, other: object) -> str:
    """Name the keys in which two mappings differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return ""
    names = sorted(k for k in {*one, *other} if one.get(k, "none") != other.get(k, "none"))
    return f" ({', '.join(f'{k} is {one.get(k)}, not {other.get(k)}' for k in names[:3])})"


def write_config(folder: Path, config: dict[str, dict[str, object]] = CONFIG) -> None:
    """The run's TOML file."""
    (folder / "run.toml").write_text(tomli_w.dumps(config))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def picture(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A smooth picture of (height, width) pixels."""
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def _inputs(base: Path) -> None:
    in_child(lambda: tiny.build_sd15(base / "model"))
    photos = base / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        image = picture(random, SIZES[number % 3])
        image.save(photos / f"{number}.png")
        score = float(np.asarray(image).mean() / 255)
        prompt = ["a temple", "a flower"][number % 2]
        rows.append({"prompt": prompt, "image": f"{number}.png", "score": f"{score:.4f}"})
    write_rows(photos / "scored.csv", rows)
    write_rows(photos / "rows.csv", [{k: row[k] for k in ("prompt", "image")} for row in rows])
    lines = [json.dumps({**row, "score": float(row["score"])}) for row in rows]
    (photos / "scored.jsonl").write_text("\n".join(lines) + "\n")
    (base / "prompts.txt").write_text("a temple\na flower\na red house\n")
    write_config(base)
    ended = Child(["threshold", "photos/scored.csv", "--output", "threshold.json"], base).wait()
    assert ended.status == 0, ended.text
