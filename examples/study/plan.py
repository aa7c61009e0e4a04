"""The plan of the study: its sizes, the methods with their tuning grids, the ablations, and the jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from tglo.settings import SamplingOptions
from tglo.shapes import rewards
from tglo.train.recipes import RECIPES

Changes = dict[str, Any]
"""Keys of the training configuration, as objective.confidence -> values."""

REWARDS = rewards.NAMES
OTHER_REWARDS: Mapping[str, tuple[str, ...]] = {
    "mixture": ("faithfulness", "vividness", "symmetry"),
    "learned": ("stars",),  # what its raters have in common
}
"""Rewards made from others (examples/study/made.py), and whose mean gain is theirs."""
OTHER_METHODS = ("TGO", "TGO oracle", "KTO", "QRPO", "DPO")
SETS = ("seen", "unseen", "paraphrases")
TUNING_REWARDS = ("faithfulness", "stars")
TUNING_SEEDS = (100, 101, 102)  # their training images, noise and order are of no other run
FINALISTS = 2  # settings that go on from the first tuning seed to the others
ABLATION_SEEDS = 3  # at most
FRESH_DRAWS = 0


@dataclass(frozen=True)
class Size:
    """The amounts of a study."""

    prompts: int = 256
    """Training prompts of the pool."""
    images: int = 4
    """Images of each training prompt."""
    used: int = 512
    """Images of the pool that a run trains on, unless an ablation says otherwise."""
    steps: int = 80
    batch: int = 32
    draws: int = 4
    """Cached draws of each sample, stratified."""
    evaluation: int = 64
    """Prompts of each set, one image each."""
    sampling_steps: int = 12
    guidance: float = 2.0
    seeds: int = 5

    @property
    def sampling(self) -> SamplingOptions:
        return SamplingOptions(self.sampling_steps, self.guidance)


SIZES = {
    "cpu": Size(),
    "gpu": Size(768, 8, 3072, 400, 64, 8, 512, 30, 2.0, 5),
    "quick": Size(8, 4, 16, 2, 2, 2, 4, 2, 2.0, 2),
}

DEFAULTS: Changes = {
    "data.percentile": 50.0,
    "data.score_scale": "std",  # the rewards have units of their own
    "objective.confidence": 5.0,
    # Words that the frozen text encoder knows.
    "objective.csft.good_marker": "there ",
    "objective.csft.bad_marker": "with ",
}

_RATES = (2e-5, 5e-5, 1e-4)
_TEMPERATURES = (0.02, 0.1)  # the family's own for 256 latent elements is 0.064
_QRPO = (0.002, 0.02)  # with beta = 0.1 its mean target of r asks for an error larger by 2.7 T
# The strongest that its authors searched, and one where the pair's term weighs as much as the fit: at the
# start it cancels the fit, so that nothing is learned.
_DSPO = (40.0, 1.0)
# Balanced sides allow a larger rate.
_ORACLE_RATES = (5e-5, 1e-4, 2e-4)
_ORACLE = (0.04, 0.1)
_RATES_ALONE = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)


@dataclass(frozen=True)
class Method:
    """An objective, and the six settings that are tried for it."""

    objective: str
    grid: tuple[Changes, ...]
    changes: Changes = field(default_factory=dict)


def _grid(
    temperatures: tuple[float, ...], rates: tuple[float, ...] = _RATES
) -> tuple[Changes, ...]:
    return tuple(
        {"optimizer.learning_rate": rate, "objective.temperature": temperature}
        for rate, temperature in product(rates, temperatures)
    )


_RATES_GRID = tuple({"optimizer.learning_rate": rate} for rate in _RATES_ALONE)
METHODS: Mapping[str, Method] = {
    "TGO": Method("tgo", _grid(_TEMPERATURES)),
    "TGO per prompt": Method("tgo", _grid(_TEMPERATURES), {"data.per_prompt": True}),
    # What `recipe = "tglo"` stands for.
    "TGO oracle": Method("tgo", _grid(_ORACLE, _ORACLE_RATES), dict(RECIPES["tglo"])),
    "SFT": Method("sft", _RATES_GRID),
    "CSFT": Method("csft", _RATES_GRID),
    "KTO": Method("kto", _grid(_TEMPERATURES)),
    "BCO": Method("bco", _grid(_TEMPERATURES)),
    "QRPO": Method("qrpo", _grid(_QRPO)),
    "DPO": Method("dpo", _grid(_TEMPERATURES)),
    "SDPO": Method("sdpo", _grid(_TEMPERATURES)),
    "LAIR": Method("lair", _grid(_TEMPERATURES)),
    "DSPO": Method("dspo", _grid(_DSPO)),
}


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    method: str
    reward: str
    seed: int
    changes: Changes
    """Differences from DEFAULTS, by key of the training configuration."""
    prompts: str = "evaluation"
    """evaluation: the three sets; validation: prompts that tuning alone uses."""
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


def tuning_jobs(name: str, setting: Changes, seeds: Sequence[int]) -> list[Job]:
    """Return the jobs that a setting of a method's grid is judged by."""
    return [
        Job(name, reward, seed, METHODS[name].changes | setting, "validation")
        for seed, reward in product(seeds, TUNING_REWARDS)
    ]


def main_jobs(tuned: Mapping[str, Changes], seeds: int) -> list[Job]:
    """Return the jobs of every method on every reward, seed by seed."""
    return [
        Job(name, reward, seed, METHODS[name].changes | tuned[name])
        for seed, reward, name in product(range(seeds), REWARDS, METHODS)
    ]


def other_jobs(tuned: Mapping[str, Changes], seeds: int) -> list[Job]:
    """Return the jobs of some methods, as they were tuned, on the rewards that are made from others."""
    return [
        Job(name, reward, seed, METHODS[name].changes | tuned[name])
        for seed, reward, name in product(
            range(min(seeds, ABLATION_SEEDS)), OTHER_REWARDS, OTHER_METHODS
        )
    ]


def grid_jobs(
    methods: Sequence[str],
    seeds: Sequence[int],
    rewards: Sequence[str] = REWARDS,
    settings: Sequence[Changes] | None = None,
) -> list[Job]:
    """Return the jobs of these methods' whole grids (or of these settings), seed by seed: the front of gain
    against harm. The tuned settings' are those of `main_jobs`.
    """
    return [
        Job(name, reward, seed, METHODS[name].changes | changes)
        for seed in seeds
        for name in methods
        for changes in (METHODS[name].grid if settings is None else settings)
        for reward in rewards
    ]
