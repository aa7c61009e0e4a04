"""The ablations, in the world of shapes: one setting of a tuned method changed at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from examples.study.methods import Changes
from examples.study.plan import FRESH_DRAWS, Job
from examples.study.world import World
from tglo.shapes import rewards

OURS = "TGO oracle"
BASELINES: Mapping[str, Changes] = {
    "oracle": {},
    "percentile 50": {"data.baseline": "percentile", "data.percentile": 50.0},
    "percentile 75": {"data.baseline": "percentile", "data.percentile": 75.0},
    "prompt's median": {"data.baseline": "percentile", "data.per_prompt": True, "data.kappa": 0.0},
    "mean": {"data.baseline": "mean"},
    "ridge": {"data.baseline": "ridge"},
}
BASELINE_REWARDS = ("stars", "compressibility", "faithfulness")  # coarse, of the prompt, skewed
IMAGES = {OURS: (4, 1, 2, 8), "TGO": (4, 1, 2, 8), "KTO": (4, 1, 2, 8), "DPO": (4, 2, 8)}
"""Images of each prompt by method: with one there are no pairs."""
BEYOND = 0.3
"""A T larger than any of the grids'."""
GROUPS: Mapping[str, Changes] = {
    "single images": {},
    "groups of 4": {"objective.group": 4, "objective.share_draws": False},
    "groups of 4, one draw": {"objective.group": 4},
    "groups of 4, one draw, safeguard": {"objective.group": 4, "objective.tgo.safeguard": 1.0},
}

PUBLISHED = ("c", "c-faithfulness", "T", "p", "scale", "threshold", "draws", "rater", "images")
RECIPE = (
    *(f"baseline-{reward}" for reward in BASELINE_REWARDS),
    "weights",
    "balance",
    *(f"each-{name.replace(' ', '-')}" for name in IMAGES),
    "T-recipe",
    "T-LAIR",
    "rater-recipe",
    "groups",
)
ABLATIONS = (*PUBLISHED, *RECIPE)


def ablation_jobs(
    world: World, tuned: Mapping[str, Changes], seeds: int, names: Sequence[str] = ABLATIONS
) -> dict[str, dict[str, list[Job]]]:
    """Return for each ablation, by its title in the table, value -> its jobs, a seed each."""
    found = {**_published(world, tuned["TGO"]), **_recipe(world, tuned)}
    return {
        title: {
            value: [replace(one, seed=seed) for seed in range(seeds)] for value, one in jobs.items()
        }
        for name, (title, jobs) in zip(ABLATIONS, found.items(), strict=True)
        if name in names
    }


def _recipe(world: World, tuned: Mapping[str, Changes]) -> dict[str, dict[str, Job]]:
    """Return ablations of the oracle's threshold and its weights, and the images of each prompt for several
    methods, at equal total.
    """

    def job(reward: str, changes: Changes | None = None, name: str = OURS, **options: Any) -> Job:
        return Job(
            name, reward, 0, world.methods[name].changes | tuned[name] | (changes or {}), **options
        )

    size = world.size
    total = size.prompts * size.images // 4
    return {
        **{
            f"baseline, {reward}": {name: job(reward, c) for name, c in BASELINES.items()}
            for reward in BASELINE_REWARDS
        },
        "oracle, confidence c": {
            "inf": job("stars"),
            **{f"{c:g}": job("stars", {"objective.confidence": c}) for c in (0.0, 1.0, 5.0)},
        },
        "percentile 50, balance": {
            name: job("faithfulness", BASELINES["percentile 50"] | {"objective.balance": balance})
            for name, balance in (("off", False), ("on", True))
        },
        **{
            f"{name}, images of a prompt, {total} in all": {
                f"{each}": job(
                    "stars", name=name, used=total, each=None if each == size.images else each
                )
                for each in several
            }
            for name, several in IMAGES.items()
        },
        **{
            f"{name}, temperature T": {
                f"{t:g}": job("stars", {"objective.temperature": t}, name)
                for t in (tuned[name]["objective.temperature"], BEYOND)
            }
            for name in (OURS, "LAIR")
        },
        "oracle, rater's error, stars": {
            f"{rewards.RATER_ERROR:g}": job("stars"),
            **{f"{e:g}": job("stars", rater_error=e) for e in (0.0, 1.5, 3.0)},
        },
        "oracle, compressibility": {
            name: job("compressibility", changes) for name, changes in GROUPS.items()
        },
    }


def _published(world: World, tuned: Changes) -> dict[str, dict[str, Job]]:
    """Return ablations of TGO as published. The first value is the tuned one's, but for draws, which need more
    epochs to differ: there all values are of fewer images. On stars, which a person could have given, where it
    needs no finer scores.
    """
    size = world.size
    pool = size.prompts * size.images
    few = pool // 8

    def job(reward: str = "stars", **options: Any) -> Job:
        return Job("TGO", reward, 0, dict(tuned), **options)

    def changed(base: Job, key: str, value: Any) -> Job:
        return replace(base, changes=base.changes | {key: value})

    def varied(base: Job, key: str, values: Sequence[Any]) -> dict[str, Job]:
        first = {**world.defaults, **base.changes}[key]
        others = {v: changed(base, key, v) for v in values if v != first}
        return {_text(first): base, **{_text(v): other for v, other in others.items()}}

    temperature = tuned["objective.temperature"]
    temperatures = [temperature * factor for factor in (0.1, 0.3, 3.0, 10.0)]
    confidences = (0.0, 1.0, 5.0, 20.0)
    return {
        "confidence c": varied(job(), "objective.confidence", confidences),
        "the same, faithfulness": varied(
            job("faithfulness"), "objective.confidence", confidences[:3]
        ),
        "temperature T": varied(job(), "objective.temperature", temperatures),
        "percentile p, vividness": varied(
            job("vividness"), "data.percentile", (25.0, 50.0, 75.0, 90.0)
        ),
        "score_scale, faithfulness": varied(
            job("faithfulness"), "data.score_scale", ("none", "std", "iqr")
        ),
        "threshold": {
            "global": job(),
            **{
                f"per prompt, kappa {k:g}": replace(
                    job(), changes=tuned | {"data.per_prompt": True, "data.kappa": k}
                )
                for k in (1.0, 10.0)
            },
        },
        f"draws K, {few} images": {
            "new each epoch": job(used=few, draws=FRESH_DRAWS),
            **{f"{k}": job(used=few, draws=k) for k in (1, 2)},
            f"{size.draws}": job(used=few),
        },
        "rater's error, stars": {
            f"{rewards.RATER_ERROR:g}": job(),
            **{f"{e:g}": job(rater_error=e) for e in (0.0, 1.5, 3.0)},
        },
        "scored images": {
            f"{size.used:,}": job(),
            **{f"{n:,}": job(used=n) for n in (few, pool // 4, pool) if n != size.used},
        },
    }


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
