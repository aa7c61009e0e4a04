"""What a run's settings would do with the rows: all that is known before a model is loaded."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tglo.cache.latents import LatentCache
from tglo.data.groups import form_groups
from tglo.data.pairs import form_pairs
from tglo.data.sampler import BatchSampler
from tglo.look.labels import Labelled
from tglo.look.sheet import Sheet
from tglo.objectives import OBJECTIVES
from tglo.threshold.split import check_split
from tglo.train.config import TrainConfig, reference_mode
from tglo.train.recipes import recipe_line
from tglo.train.samples import choose


@dataclass(frozen=True)
class Prospects:
    """A run of one process, in numbers; None where they cannot be known.

    samples: rows that are trained on, `positives` of them at or above their threshold. units: the rows, pairs or
    groups (`unit`) of them that come together. weighs: samples count by their distance from the threshold.
    cached: the numbers are those of the cache, not of the manifest alone. refused: why training would not start, as
    far as that can be told.
    """

    recipe: str
    objective: str
    weighs: bool
    reference: str
    unit: str
    cached: bool
    samples: int | None = None
    positives: int | None = None
    units: int | None = None
    batch: int = 0
    steps: int = 0
    steps_per_epoch: int | None = None
    epochs: float | None = None
    optimizer: str = ""
    bucket_shares: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def prospects(config: TrainConfig, sheet: Sheet, labelled: Labelled | None) -> Prospects:
    """Tell what a run would do. What it would be refused for is told, not raised."""
    chosen, optimizer = config.objective, config.optimizer
    refused = _refused(config)
    found = Prospects(
        recipe=recipe_line(config),
        objective=chosen.name,
        weighs=OBJECTIVES[chosen.name].weighs,
        reference=reference_mode(config),
        unit=chosen.unit,
        cached=has_cache(config),
        batch=optimizer.micro_batch * optimizer.accumulation,
        steps=optimizer.steps,
        optimizer=f"{optimizer.name}, rate {optimizer.learning_rate:g}, {optimizer.schedule}"
        + (f" after {optimizer.warmup_steps} steps" if optimizer.warmup_steps else ""),
        refused=refused,
    )
    if labelled is None:
        return found
    try:
        rows = _Rows.of(config, sheet, labelled)
        found = replace(
            found, samples=rows.samples, positives=rows.positives, units=len(rows.buckets)
        )
        size = chosen.group_size
        sampler = BatchSampler(
            rows.buckets,
            micro_batch=max(1, optimizer.micro_batch // size),
            accumulation=optimizer.accumulation,
            world_size=1,
            seed=config.seed,
            unit=chosen.unit,
        )
    except ValueError as error:
        return replace(found, refused=[*refused, str(error)])
    shares = sampler.shares(optimizer.steps) if len(sampler.buckets) > 1 else {}
    return replace(
        found,
        steps_per_epoch=sampler.steps_per_epoch,
        epochs=optimizer.steps / sampler.steps_per_epoch,
        bucket_shares={_name(bucket): share for bucket, share in shares.items()},
    )


@dataclass(frozen=True)
class _Rows:
    """The rows that a run would use, and the bucket of each unit of them."""

    samples: int
    positives: int
    buckets: Sequence[Hashable]

    @classmethod
    def of(cls, config: TrainConfig, sheet: Sheet, labelled: Labelled) -> _Rows:
        if has_cache(config) and sheet.scored.size == len(sheet):
            return cls._of_cache(config, sheet, labelled)
        return cls._of_manifest(config, sheet, labelled)

    @classmethod
    def _of_cache(cls, config: TrainConfig, sheet: Sheet, labelled: Labelled) -> _Rows:
        cache = LatentCache(config.data.cache)
        objective = OBJECTIVES[config.objective.name](constants=config.objective.constants)
        samples = choose(config, objective, sheet.manifest, cache, labelled.threshold)
        buckets = cache.buckets([samples.ids[row] for row in samples.units[:, 0]])
        used = np.unique(samples.units)  # a row may be in no pair
        return cls(used.size, int(samples.labels.positive[used].sum()), buckets)

    @classmethod
    def _of_manifest(cls, config: TrainConfig, sheet: Sheet, labelled: Labelled) -> _Rows:
        """Take the images as being of one size, since nothing says which bucket each goes to."""
        kind, positive = OBJECTIVES[config.objective.name], labelled.positive
        needs = {"needs_positives": kind.needs_positives, "needs_negatives": kind.needs_negatives}
        check_split(config.objective.name, int(positive.sum()), positive.size, **needs)
        kept = np.flatnonzero(positive) if kind.positives_only else np.arange(positive.size)
        units = _units(config, sheet, sheet.scored[kept])
        used = kept if config.objective.unit == "rows" else kept[np.unique(units)]
        return cls(used.size, int(positive[used].sum()), [()] * len(units))


def _units(config: TrainConfig, sheet: Sheet, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    size = config.objective.group_size
    if size == 1:
        return rows[:, None]
    prompts = [sheet.manifest.rows[row].prompt for row in rows.tolist()]
    buckets, scores = [()] * rows.size, sheet.scores[rows]
    if OBJECTIVES[config.objective.name].takes_pairs:
        return form_pairs(sheet.ids[rows].tolist(), prompts, buckets, scores, config.seed)
    return form_groups(prompts, buckets, scores, size, config.seed)


def _refused(config: TrainConfig) -> list[str]:
    from tglo.train.config_checks import check  # which loads what models are made of

    try:
        check(config)
    except ValueError as error:
        return [str(error)]
    return []


def has_cache(config: TrainConfig) -> bool:
    """Say whether the run's cache is there."""
    return (config.data.cache / "cache.json").is_file()


def _name(bucket: Hashable) -> str:
    return " x ".join(map(str, bucket)) if isinstance(bucket, tuple) else str(bucket)
