"""The study's tables and pictures, which fill docs/study.md between its markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import fill
from examples.study.methods import Changes
from examples.study.results import Gain, interval
from examples.study.world import World
from tglo.bench.table import markdown
from tglo.files import write_bytes


class Table:
    """Gains of the main jobs, by method, reward trained on, seed, set and scorer."""

    def __init__(self, found: Sequence[Gain], seeds: int, world: World) -> None:
        self.seeds, self.world = seeds, world
        self._values = {(g.job.method, g.job.reward, g.job.seed, g.set, g.scorer): g for g in found}

    def gains(
        self, method: str, reward: str, name: str, scorer: str | None = None
    ) -> np.ndarray[Any, Any]:
        """Return (seeds,) gains in standard deviations; scorer: the reward trained on by default."""
        keys = ((method, reward, seed, name, scorer or reward) for seed in range(self.seeds))
        return np.array([self._values[key].value for key in keys])

    def overall(self, method: str, names: Sequence[str] = ()) -> np.ndarray[Any, Any]:
        """Return (seeds,) gains on the reward trained on, averaged over rewards and these sets (all, if
        none is named).
        """
        sets, rewards = names or self.world.sets, self.world.rewards
        return np.mean([self.gains(method, r, name) for r in rewards for name in sets], axis=0)

    def accuracy(self, method: str, reward: str, name: str) -> np.ndarray[Any, Any]:
        """Return (seeds,) changes of the judge's accuracy, in percentage points."""
        keys = ((method, reward, seed, name, "accuracy") for seed in range(self.seeds))
        found = [self._values[key] for key in keys]
        return np.array([100 * (gain.mean - gain.base) for gain in found])


def blocks(
    table: Table,
    tuned: Mapping[str, Changes],
    trials: Mapping[str, Sequence[Sequence[float]]],
    ablations: Mapping[str, Mapping[str, Sequence[Gain]]],
) -> dict[str, str]:
    """Return Markdown by the name of its markers."""
    return {
        "tuning": _tuning(table.world, tuned, trials),
        "overall": _overall(table),
        **{name: _rewards(table, name) for name in table.world.sets},
        "accuracy": _accuracy(table),
        "transfer": _transfer(table),
        "ablations": _ablations(ablations),
    }


def others(world: World, found: Sequence[Gain]) -> str:
    """Return gains on the rewards that are made from others, and what they cost in accuracy."""
    lines = []
    for method in world.other_methods:
        cells = []
        for reward, parts in world.other_rewards.items():
            own = [g for g in found if g.job.method == method and g.job.reward == reward]
            gains = np.mean([by_seed(own, part) for part in parts], axis=0)
            cells += [cell(gains), cell(_points(own), 1)]
        lines.append([method, *cells])
    header = [text for reward in world.other_rewards for text in (reward, "accuracy, points")]
    return markdown(["method", *header], lines)


def cell(values: Sequence[float] | np.ndarray[Any, Any], digits: int = 2) -> str:
    """Format the mean and half of its interval, as in +0.52 ± 0.11."""
    found = interval(values)
    return f"{found.value:+.{digits}f} ± {found.high - found.value:.{digits}f}"


def _tuning(
    world: World,
    tuned: Mapping[str, Changes],
    trials: Mapping[str, Sequence[Sequence[float]]],
) -> str:
    lines = []
    for name, changes in tuned.items():
        chosen = [
            f"{changes['optimizer.learning_rate']:g}",
            f"{changes['objective.temperature']:g}" if "objective.temperature" in changes else "",
        ]
        best = list(world.methods[name].grid).index(changes)
        tried = [" ".join(f"{value:+.2f}" for value in gains) for gains in trials[name]]
        tried[best] = f"**{tried[best]}**"
        lines.append([name, *chosen, "; ".join(tried)])
    return markdown(["method", "learning rate", "T", "gains of the six settings"], lines)


def _overall(table: Table) -> str:
    ours = table.overall("TGO")
    lines = []
    for name in sorted(table.world.methods, key=lambda m: -float(table.overall(m).mean())):
        mine = table.overall(name)
        difference = "" if name == "TGO" else cell(ours - mine)
        sets = [cell(table.overall(name, [s])) for s in table.world.sets]
        lines.append([name, cell(mine), *sets, difference])
    return markdown(["method", "all", *table.world.sets, "TGO minus this, all"], lines)


def _rewards(table: Table, name: str) -> str:
    methods, rewards = table.world.methods, table.world.rewards
    best = {r: max(methods, key=lambda m: float(table.gains(m, r, name).mean())) for r in rewards}
    lines = []
    for method in methods:
        cells = [cell(table.gains(method, r, name)) for r in rewards]
        marked = [
            f"**{c}**" if best[r] == method else c for r, c in zip(rewards, cells, strict=True)
        ]
        lines.append([method, *marked])
    return markdown(["method", *rewards], lines)


def _accuracy(table: Table) -> str:
    methods, rewards, sets = table.world.methods, table.world.rewards, table.world.sets
    lines = [
        [
            method,
            *(
                cell(np.mean([table.accuracy(method, r, name) for name in sets], axis=0), 1)
                for r in rewards
            ),
        ]
        for method in methods
    ]
    return markdown(["method", *rewards], lines)


def _transfer(table: Table) -> str:
    rewards, sets = table.world.rewards, table.world.sets
    lines = [
        [
            f"trained on {reward}",
            *(
                cell(np.mean([table.gains("TGO", reward, n, s) for n in sets], axis=0))
                for s in rewards
            ),
        ]
        for reward in rewards
    ]
    return markdown(["TGO", *rewards], lines)


def _ablations(ablations: Mapping[str, Mapping[str, Sequence[Gain]]]) -> str:
    lines = []
    for ablation, values in ablations.items():
        first = next(iter(values.values()))
        own = first[0].job.reward
        reference = by_seed(first, own)
        for number, (value, found) in enumerate(values.items()):
            done = len({gain.job.seed for gain in found})
            if done < len(reference):
                refused = f"refused on {len(reference) - done} of {len(reference)} seeds"
                lines.append(["", value, refused, *[""] * 4])
                continue
            mine = by_seed(found, own)
            difference = "" if number == 0 else cell(mine - reference)
            others = [cell(by_seed(found, scorer)) for scorer in ("faithfulness", "vividness")]
            name = ablation if number == 0 else ""
            lines.append([name, value, cell(mine), difference, *others, cell(_points(found), 1)])
    header = ["", "", "reward trained on", "minus the first", "faithfulness", "vividness"]
    header.append("accuracy, points")
    return markdown(header, lines)


def _points(found: Sequence[Gain]) -> np.ndarray[Any, Any]:
    """Return changes of the judge's accuracy in percentage points, one for each seed."""
    seeds = sorted({gain.job.seed for gain in found})
    accuracy = [gain for gain in found if gain.scorer == "accuracy"]
    changes = [[g.mean - g.base for g in accuracy if g.job.seed == seed] for seed in seeds]
    return np.array([100 * np.mean(change) for change in changes])


def by_seed(found: Sequence[Gain], scorer: str) -> np.ndarray[Any, Any]:
    """Return gains over all sets, one for each seed."""
    seeds = sorted({gain.job.seed for gain in found})
    return np.array(
        [
            np.mean([g.value for g in found if g.scorer == scorer and g.job.seed == seed])
            for seed in seeds
        ]
    )


def write(page: Path, found: Mapping[str, str], images: Mapping[str, bytes]) -> None:
    """Fill the page's blocks, and write the pictures beside it."""
    write_bytes(page, fill(page.read_text(), dict(found)).encode())
    for name, content in images.items():
        write_bytes(page.with_name(name), content)
