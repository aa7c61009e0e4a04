"""The objective of a run: what it rules out, and how it is made."""

from __future__ import annotations

from tglo.models.families.base import Family
from tglo.objectives import OBJECTIVES, Objective, Settings
from tglo.threshold.frozen import Threshold
from tglo.train import processes
from tglo.train.config import TrainConfig


def check_objective(config: TrainConfig) -> None:
    """ValueError for settings that the objective cannot work with."""
    data, objective, kind = config.data, config.objective, OBJECTIVES[config.objective.name]
    if data.threshold is not None and data.per_prompt:
        raise ValueError(
            f"data.per_prompt estimates a threshold, but data.threshold = {data.threshold} gives one; "
            "leave one out (`tglo threshold --per-prompt` writes a file with a threshold per prompt)"
        )
    if kind.takes_pairs and config.optimizer.micro_batch % 2:
        raise ValueError(
            f"optimizer.micro_batch is {config.optimizer.micro_batch}, but objective {objective.name} "
            "takes pairs: it must be even, two samples per pair"
        )
    if kind.takes_pairs and objective.reference == "cached":
        raise ValueError(
            f"objective.reference is cached, but objective {objective.name} takes pairs: the two images "
            "of a pair share timestep and noise, and the cache holds errors of each sample's own; use "
            "copy, or adapter-off with a LoRA"
        )
    if objective.name == "dspo" and objective.temperature == "auto":
        raise ValueError(
            "objective.temperature is auto, which only raises T from its default, and dspo's "
            f"{kind.default_temperature:g} is far above what auto aims at; leave it at default or give "
            "a number"
        )
    if kind.marks_prompts and objective.good_marker == objective.bad_marker:
        raise ValueError(
            f"objective.good_marker and bad_marker are both {objective.good_marker!r}; they must differ"
        )


def check_family(config: TrainConfig, family: type[Family]) -> None:
    """ValueError for settings that the model's family cannot work with."""
    for (key, value), reason in family.unsupported.items():
        section, name = key.split(".")
        if getattr(getattr(config, section), name) == value:
            raise ValueError(f"{key} is {value}, which does not fit {family.name}: {reason}")


def make_objective(config: TrainConfig, threshold: Threshold) -> Objective:
    """The objective with the run's constants; its means go over the processes."""
    given = config.objective
    settings = Settings(
        beta=None if given.beta == "default" else given.beta,
        confidence=threshold.confidence(given.confidence),
        positive_weight=given.positive_weight,
        negative_weight=given.negative_weight,
        backend=given.backend,
    )
    return OBJECTIVES[given.name](settings, processes.mean)
