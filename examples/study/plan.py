"""The plan of the study: its jobs, a training and its evaluation each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from examples.study.methods import Changes
from examples.study.world import Size, World

TUNING_SEEDS = (100, 101, 102)  # their training images, noise and order are of no other run
FINALISTS = 2  # settings that advance from the first tuning seed to the others
ABLATION_SEEDS = 3  # at most
FRESH_DRAWS = 0


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    method: str
    reward: str
    seed: int
    changes: Changes
    """Differences from the world's defaults, by key of the training configuration."""
    prompts: str = "evaluation"
    """evaluation: the world's sets; validation: prompts that tuning alone uses."""
    used: int | None = None
    """Images trained on; None is the size's."""
    draws: int | None = None
    """Cached draws of a sample; FRESH_DRAWS: a new one each epoch, with a frozen copy."""
    rater_error: float | None = None
    """The rater's error in stars; None is its own."""
    each: int | None = None
    """Images of each prompt that are trained on; None is the size's."""

    @property
    def name(self) -> str:
        """The name of the job's folder, different for every job."""
        text = json.dumps(self.plain(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.method.replace(' ', '-')}-{self.reward}-{self.seed}-{digest}"

    def plain(self) -> dict[str, Any]:
        """Return the job as plain data for JSON."""
        plain = asdict(self)
        if self.each is None:
            del plain["each"]  # so that jobs of before keep their names
        return plain

    def cached_draws(self, size: Size) -> tuple[int, bool]:
        """Return the number of cached draws of a sample, and whether they are stratified."""
        draws = size.draws if self.draws is None else self.draws
        return draws, draws > 1 and self.changes.get("data.stratified", True)


def tuning_jobs(world: World, name: str, setting: Changes, seeds: Sequence[int]) -> list[Job]:
    """Return the jobs that a setting of a method's grid is judged by."""
    return [
        Job(name, reward, seed, world.methods[name].changes | setting, "validation")
        for seed, reward in product(seeds, world.tuning_rewards)
    ]


def main_jobs(world: World, tuned: Mapping[str, Changes], seeds: int) -> list[Job]:
    """Return the jobs of every method on every reward, seed by seed."""
    return [
        Job(name, reward, seed, world.methods[name].changes | tuned[name])
        for seed, reward, name in product(range(seeds), world.rewards, world.methods)
    ]


def other_jobs(world: World, tuned: Mapping[str, Changes], seeds: int) -> list[Job]:
    """Return the jobs of some methods, as they were tuned, on the rewards that are made from others."""
    return [
        Job(name, reward, seed, world.methods[name].changes | tuned[name])
        for seed, reward, name in product(
            range(min(seeds, ABLATION_SEEDS)), world.other_rewards, world.other_methods
        )
    ]


def grid_jobs(
    world: World,
    methods: Sequence[str],
    seeds: Sequence[int],
    rewards: Sequence[str] = (),
    settings: Sequence[Changes] | None = None,
) -> list[Job]:
    """Return the jobs of these methods' whole grids (or of these settings) on these rewards (all, if none is
    named), seed by seed: the front of gain against harm. The tuned settings' are those of `main_jobs`.
    """
    return [
        Job(name, reward, seed, world.methods[name].changes | changes)
        for seed in seeds
        for name in methods
        for changes in (world.methods[name].grid if settings is None else settings)
        for reward in (rewards or world.rewards)
    ]
