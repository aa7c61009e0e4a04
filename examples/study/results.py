"""Gains over the base model from the jobs' scores, with intervals over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from examples.study import runs
from examples.study.plan import Job
from examples.study.world import World
from tglo.evaluate.statistics import Estimate

LEVEL = 0.95
COLUMNS = ("method", "trained_on", "seed", "changes", "prompts", "set", "scorer")


@dataclass(frozen=True)
class Gain:
    """One job on one set by one scorer, against the base model on the same prompts and noise."""

    job: Job
    set: str
    scorer: str
    base: float
    mean: float
    unit: float
    """Standard deviation of the base model's scores, one number for all seeds."""

    @property
    def value(self) -> float:
        """The mean gain in that unit."""
        return (self.mean - self.base) / self.unit if self.unit else 0.0


class Bases:
    """The base model's results on a kind of prompts, for all seeds that are compared."""

    def __init__(self, folder: Path, prompts: str, seeds: Sequence[int], world: World) -> None:
        found = {seed: runs.base_result(folder, prompts, seed, world) for seed in seeds}
        self.means = {seed: result["means"] for seed, result in found.items()}
        self._deviations = [result["deviations"] for result in found.values()]

    def unit(self, name: str, scorer: str) -> float:
        """Return the deviation of a set's scores, pooled over the seeds."""
        squares = [deviations[name][scorer] ** 2 for deviations in self._deviations]
        return float(np.sqrt(np.mean(squares)))


def gains(folder: Path, job: Job, bases: Bases) -> list[Gain]:
    """Return all gains of a finished job, none if it was refused; FileNotFoundError for an unfinished one."""
    result = runs.result_of(folder, job)
    if result is None:
        raise FileNotFoundError(f"{job.name} is not done; the same command makes it")
    if "refused" in result:
        return []
    base = bases.means[job.seed]
    return [
        Gain(job, name, scorer, base[name][scorer], mean, bases.unit(name, scorer))
        for name, by_scorer in result["means"].items()
        for scorer, mean in by_scorer.items()
    ]


def interval(values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Return the mean of one value for each seed, with Student's 95% interval: seeds are what is drawn anew.

    ValueError for fewer than 2, which have no interval.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} seeds have no interval; run at least 2")
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return Estimate(mean, mean - half, mean + half)


def as_csv(found: Sequence[Gain]) -> str:
    """Write a line for each gain, at six digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "base", "mean", "unit", "gain"])
    for gain in found:
        job = gain.job
        extra = {
            key: value
            for key in ("used", "draws", "rater_error")
            if (value := getattr(job, key)) is not None
        }
        changes = " ".join(f"{key}={value}" for key, value in {**job.changes, **extra}.items())
        numbers = [f"{x:.6g}" for x in (gain.base, gain.mean, gain.unit, gain.value)]
        writer.writerow(
            [
                job.method,
                job.reward,
                job.seed,
                changes,
                job.prompts,
                gain.set,
                gain.scorer,
                *numbers,
            ]
        )
    return text.getvalue()
