"""What the study runs: its sizes, the methods with their tuning grids, the ablations, and the jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from tglo.shapes import rewards

Changes = dict[str, Any]
"""Keys of the training configuration, as objective.confidence -> values."""

REWARDS = rewards.NAMES
SETS = ("seen", "unseen", "paraphrases")
ABLATION_REWARD = "stars"
TUNING_REWARDS = ("faithfulness", "stars")
TUNING_SEED = 100  # its training images, noise and order are of no other run
FRESH_DRAWS = 0


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    prompts: int = 256
    """Training prompts of the pool."""
    images: int = 4
    """Of each training prompt."""
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
    seeds: int = 3


SIZES = {
    "cpu": Size(),
    "gpu": Size(768, 8, 3072, 400, 64, 8, 512, 30, 2.0, 5),
    "quick": Size(8, 4, 16, 2, 2, 2, 4, 2, 2.0, 2),
}

DEFAULTS: Changes = {
    "data.percentile": 50.0,
    "data.score_scale": "std",  # the rewards have units of their own
    "objective.confidence": 5.0,
    # Words that the frozen text encoder knows: with signs that it never saw, CSFT's models were told
    # nothing.
    "objective.good_marker": "there ",
    "objective.bad_marker": "with ",
}

_RATES = (5e-5, 1e-4, 2e-4)
_TEMPERATURES = (0.02, 0.1)  # the family's own for 256 latent elements is 0.064
_PUBLISHED_DSPO = (2000.0, 40.0)  # the ends of what its authors searched
_RATES_ALONE = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)


@dataclass(frozen=True)
class Method:
    """An objective, and the six settings that are tried for it."""

    objective: str
    grid: tuple[Changes, ...]
    changes: Changes = field(default_factory=dict)


def _grid(temperatures: tuple[float, ...]) -> tuple[Changes, ...]:
    return tuple(
        {"optimizer.learning_rate": rate, "objective.temperature": temperature}
        for rate, temperature in product(_RATES, temperatures)
    )


_RATES_GRID = tuple({"optimizer.learning_rate": rate} for rate in _RATES_ALONE)
METHODS: Mapping[str, Method] = {
    "TGO": Method("tgo", _grid(_TEMPERATURES)),
    "TGO per prompt": Method("tgo", _grid(_TEMPERATURES), {"data.per_prompt": True}),
    "SFT": Method("sft", _RATES_GRID),
    "CSFT": Method("csft", _RATES_GRID),
    "KTO": Method("kto", _grid(_TEMPERATURES)),
    "BCO": Method("bco", _grid(_TEMPERATURES)),
    "QRPO": Method("qrpo", _grid(_TEMPERATURES)),
    "DPO": Method("dpo", _grid(_TEMPERATURES)),
    "DSPO": Method("dspo", _grid(_PUBLISHED_DSPO)),
}


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    method: str
    reward: str
    seed: int
    changes: Changes
    """What differs from DEFAULTS; see `config`."""
    prompts: str = "evaluation"
    """evaluation: the three sets; validation: prompts that tuning alone uses."""
    used: int | None = None
    """Images trained on; None is the size's."""
    draws: int | None = None
    """Cached draws of a sample; FRESH_DRAWS: a new one each epoch, with a frozen copy."""
    rater_error: float | None = None
    """Stars; None is the rater's own."""

    @property
    def name(self) -> str:
        """A folder's name, other for every job."""
        text = json.dumps(self.plain(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        return f"{self.method.replace(' ', '-')}-{self.reward}-{self.seed}-{digest}"

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


def tuning_jobs() -> dict[str, list[list[Job]]]:
    """For each method, for each setting of its grid, the jobs that it is judged by."""
    return {
        name: [
            [
                Job(name, reward, TUNING_SEED, method.changes | setting, "validation")
                for reward in TUNING_REWARDS
            ]
            for setting in method.grid
        ]
        for name, method in METHODS.items()
    }


def main_jobs(tuned: Mapping[str, Changes], seeds: int) -> list[Job]:
    """Every method on every reward, seed by seed."""
    return [
        Job(name, reward, seed, METHODS[name].changes | tuned[name])
        for seed, reward, name in product(range(seeds), REWARDS, METHODS)
    ]


def ablation_jobs(tuned: Changes, seeds: int, size: Size) -> dict[str, dict[str, list[Job]]]:
    """For each ablation, value -> its jobs, a seed each; the tuned TGO is one of the values.

    On stars, but for one: faithfulness has scores with a long tail below the median.
    """
    default = Job("TGO", ABLATION_REWARD, 0, dict(tuned))
    temperature = tuned["objective.temperature"]

    def changed(**changes: Any) -> Job:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        return replace(default, changes=default.changes | named)

    pool = size.prompts * size.images
    found: dict[str, dict[str, Job]] = {
        "confidence c": {
            f"{c:g}": default if c == 5 else changed(objective__confidence=c)
            for c in (0.0, 1.0, 5.0, 20.0)
        },
        "confidence c, on faithfulness": {
            f"{c:g}": replace(job, reward="faithfulness")
            for c, job in (
                (0.0, changed(objective__confidence=0.0)),
                (1.0, changed(objective__confidence=1.0)),
                (5.0, default),
            )
        },
        "temperature T": {
            f"{temperature * f:g}": default
            if f == 1
            else changed(objective__temperature=temperature * f)
            for f in (0.1, 0.3, 1.0, 3.0, 10.0)
        },
        "beta (at T times beta)": {
            f"{b:g}": default
            if b == 1
            else changed(objective__beta=b, objective__temperature=temperature * b)
            for b in (0.5, 1.0, 2.0)
        },
        "percentile p": {
            f"{p:g}": default if p == 50 else changed(data__percentile=p)
            for p in (25.0, 50.0, 75.0, 90.0)
        },
        "score_scale": {
            s: default if s == "std" else changed(data__score_scale=s)
            for s in ("none", "std", "iqr")
        },
        "threshold": {
            "global": default,
            **{
                f"per prompt, kappa {k:g}": changed(data__per_prompt=True, data__kappa=k)
                for k in (1.0, 10.0)
            },
        },
        "draws K": {
            "new each epoch, copy": replace(default, draws=FRESH_DRAWS),
            **{
                f"{k}": default if k == size.draws else replace(default, draws=k)
                for k in (1, 2, size.draws)
            },
        },
        "rater's error in stars": {
            f"{e:g}": default if e == rewards.RATER_ERROR else replace(default, rater_error=e)
            for e in (0.0, rewards.RATER_ERROR, 1.5, 3.0)
        },
        "scored images": {
            f"{n:,}": default if n == size.used else replace(default, used=n)
            for n in (pool // 8, pool // 4, pool // 2, pool)
        },
    }
    return {
        name: {
            value: [replace(job, seed=seed) for seed in range(seeds)] for value, job in jobs.items()
        }
        for name, jobs in found.items()
    }
