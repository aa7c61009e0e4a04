"""The front of gain against harm: what a method gains when it may cost no more than so many points of accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from examples.study import plan, results, runs
from examples.study.methods import Changes, Method
from examples.study.plan import Job
from examples.study.results import Bases
from examples.study.world import World
from tglo.bench.table import markdown
from tglo.files import read_json

LIMITS = (2.0, 5.0, 10.0)
"""Points of the judge's accuracy that a model may lose."""
OURS = "TGO oracle"
CLEAR = 0.05
NAN = float("nan")
Floats = NDArray[np.float64]


@dataclass
class Setting:
    """One setting of a method's grid: gain, loss of accuracy in points, and changes of error and diversity in
    percent (where they were measured), by seed; means over rewards and prompt sets.
    """

    method: str
    changes: Changes
    gain: dict[int, float] = field(default_factory=dict)
    harm: dict[int, float] = field(default_factory=dict)
    error: dict[int, float] = field(default_factory=dict)
    diversity: dict[int, float] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return sorted(self.gain)

    def over(self, values: dict[int, float], seeds: Iterable[int]) -> float:
        return float(np.mean([values[seed] for seed in seeds]))


@dataclass(frozen=True)
class Best:
    """What a method gives within a limit of harm: (seeds,) each, every seed with the setting that the other
    seeds would choose.
    """

    seeds: tuple[int, ...]
    gain: Floats
    harm: Floats


def measured(
    folder: Path,
    seeds: Sequence[int],
    world: World,
    rewards: Sequence[str] = (),
) -> list[Setting]:
    """Return the settings of all grids that are done on two seeds or more, for all of these rewards (all of the
    world's, if none is named).
    """
    known = [seed for seed in seeds if _base(folder, "evaluation", seed).is_file()]
    bases = Bases(folder, "evaluation", known, world)
    found = []
    for name, method in world.methods.items():
        for changes in method.grid:
            setting = Setting(name, changes)
            for seed in known:
                jobs = plan.grid_jobs(world, [name], [seed], rewards, [changes])
                if all(runs.result_of(folder, job) is not None for job in jobs):
                    _add(setting, folder, seed, jobs, bases)
            if len(setting.gain) > 1:
                found.append(setting)
    return found


def best(settings: Sequence[Setting], limit: float) -> Best:
    """Return the largest gain among settings that lose no more than `limit`, both judged by the other seeds, so
    that no seed chooses for itself. Where no setting is within the limit, the base stays: 0 and 0.
    """
    seeds = sorted({seed for setting in settings for seed in setting.seeds})
    gains, harms = [], []
    for seed in seeds:
        within: list[tuple[float, Setting]] = []
        for setting in settings:
            others = [s for s in setting.seeds if s != seed]
            if seed in setting.gain and others and setting.over(setting.harm, others) <= limit:
                within.append((setting.over(setting.gain, others), setting))
        gain, chosen = max(within, key=lambda pair: pair[0], default=(0.0, None))
        use = chosen is not None and gain > 0
        gains.append(chosen.gain[seed] if use and chosen else 0.0)
        harms.append(chosen.harm[seed] if use and chosen else 0.0)
    return Best(tuple(seeds), np.array(gains), np.array(harms))


def holm(values: Sequence[float]) -> Floats:
    """Return p-values corrected for their number by Holm's method; NaN, where nothing was tested, stays."""
    given = np.asarray(values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested])]
    corrected, running = given.copy(), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * given[index]))
        corrected[index] = running
    return corrected


def fronts(settings: Sequence[Setting]) -> dict[str, dict[float, Best]]:
    """Return by method and limit what it gives."""
    by_method: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        by_method[setting.method].append(setting)
    return {
        name: {limit: best(several, limit) for limit in LIMITS}
        for name, several in by_method.items()
    }


def table(settings: Sequence[Setting], methods: Mapping[str, Method]) -> str:
    """Return the front of every method, best at the middle limit first. A star marks what differs from ours,
    after correction for the number of comparisons; only whole grids are compared.
    """
    found = fronts(settings)
    keys = [(name, limit) for name in found for limit in LIMITS]
    done = {name: [s for s in settings if s.method == name] for name in found}
    whole = {name for name, several in done.items() if len(several) == len(methods[name].grid)}
    values = [_p(found, name, limit) if {OURS, name} <= whole else NAN for name, limit in keys]
    corrected = dict(zip(keys, holm(values), strict=True))
    lines = []
    for name in sorted(found, key=lambda m: -float(found[m][LIMITS[1]].gain.mean())):
        seeds = sorted({len(s.seeds) for s in done[name]})
        lines.append(
            [
                name,
                f"{len(done[name])} of {len(methods[name].grid)}",
                " to ".join(str(n) for n in sorted({seeds[0], seeds[-1]})),
                *(_cell(found[name][limit], corrected[name, limit]) for limit in LIMITS),
            ]
        )
    limits = [f"at most {limit:g} points" for limit in LIMITS]
    return markdown(["method", "settings run", "seeds", *limits], lines)


def settings_table(settings: Sequence[Setting], methods: Mapping[str, Method]) -> str:
    """Return every measured setting: gain, change of accuracy, and the other two harms where they are known."""
    lines = []
    order = list(methods)
    for one in sorted(settings, key=lambda s: (order.index(s.method), str(s.changes))):
        cells = [_mean(one.gain, 2), _mean({k: -v for k, v in one.harm.items()}, 1)]
        others = [_mean(values, 1) for values in (one.error, one.diversity)]
        rate, temperature = (one.changes.get(key) for key in _SHOWN)
        told = "" if temperature is None else f"{temperature:g}"
        lines.append([one.method, f"{rate:g}", told, str(len(one.seeds)), *cells, *others])
    header = ["method", "learning rate", "T", "seeds", "gain", "accuracy, points"]
    return markdown([*header, "error on the base's samples, %", "diversity, %"], lines)


_SHOWN = ("optimizer.learning_rate", "objective.temperature")


def picture(settings: Sequence[Setting], methods: Mapping[str, Method]) -> bytes:
    """Draw gain against loss of accuracy: a point for each setting, a line through those that no other setting of
    the method beats in both.
    """
    from matplotlib.figure import Figure

    from examples.study.pictures import png

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(methods):
        own = [s for s in settings if s.method == name]
        points = sorted((s.over(s.harm, s.seeds), s.over(s.gain, s.seeds)) for s in own)
        if not points:
            continue
        colour, marker = f"C{number % 10}", "o" if number < 10 else "s"
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=4, label=name)
        line = [p for i, p in enumerate(points) if all(p[1] > q[1] for q in points[:i])]
        axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.2)
    for limit in LIMITS:
        axes.axvline(limit, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xlabel("loss of the judge's accuracy, percentage points")
    axes.set_ylabel("gain over the base in its standard deviations")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return png(figure)


def blocks(settings: Sequence[Setting], world: World) -> dict[str, str]:
    """Return what belongs between the page's markers."""
    return {
        f"{world.prefix}front": table(settings, world.methods),
        f"{world.prefix}settings": settings_table(settings, world.methods),
    }


def _add(setting: Setting, folder: Path, seed: int, jobs: Sequence[Job], bases: Bases) -> None:
    found = [gain for job in jobs for gain in results.gains(folder, job, bases)]
    setting.gain[seed] = float(np.mean([g.value for g in found if g.scorer == g.job.reward]))
    lost = [g.base - g.mean for g in found if g.scorer == "accuracy"]
    setting.harm[seed] = 100 * float(np.mean(lost))
    harms = [(runs.result_of(folder, job) or {}).get("harm") for job in jobs]
    base = _base(folder, "harm", seed)
    if base.is_file() and all(harms):
        before = read_json(base)
        for key, values in (("error", setting.error), ("diversity", setting.diversity)):
            after = np.mean([harm[key] for harm in harms if harm])
            values[seed] = 100 * float(after / before[key] - 1)


def _base(folder: Path, kind: str, seed: int) -> Path:
    return folder / "runs" / runs.base_name(kind, seed) / runs.RESULT


def _p(found: dict[str, dict[float, Best]], name: str, limit: float) -> float:
    """Return the p-value of a paired t-test against ours over the seeds that both have; NaN without one."""
    if name == OURS:
        return NAN
    ours, other = found[OURS][limit], found[name][limit]
    both = [seed for seed in ours.seeds if seed in other.seeds]
    if len(both) < 2:
        return NAN
    mine = [ours.gain[ours.seeds.index(seed)] for seed in both]
    theirs = [other.gain[other.seeds.index(seed)] for seed in both]
    return 1.0 if mine == theirs else float(ttest_rel(mine, theirs).pvalue)


def _cell(one: Best, p: float) -> str:
    found = results.interval(one.gain)
    mark = " \\*" if p < CLEAR else ""
    if not one.gain.any():
        return f"none{mark}"
    half = found.high - found.value
    return f"{found.value:+.2f} ± {half:.2f} at {one.harm.mean():.1f}{mark}"


def _mean(values: dict[int, float], digits: int) -> str:
    if len(values) < 2:
        return ""
    found = results.interval(list(values.values()))
    return f"{found.value:+.{digits}f} ± {found.high - found.value:.{digits}f}"
