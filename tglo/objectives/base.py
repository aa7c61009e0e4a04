"""The interface of an objective: its needs, its constants, and the loss of a micro batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.losses.log_ratio import LogRatio
from tglo.losses.results import TGOStats
from tglo.objectives.micro_batch import MicroBatch, statistics

Average = Callable[[Tensor], Tensor]
"""A tensor's mean over the processes, each of which has as many samples."""


def alone(mean: Tensor) -> Tensor:
    """The average of one process."""
    return mean


@dataclass(frozen=True)
class Settings:
    """Constants that objectives share; beta None is the objective's own default."""

    beta: float | None = None
    confidence: float = 5.0
    backend: str = "auto"
    score_scale: float = 1.0
    """What a difference of scores is divided by where an objective compares scores; that of the threshold."""


@dataclass(frozen=True)
class NoConstants:
    """Constants of an objective that has none of its own."""


class Objective(ABC):
    """A loss over micro batches; `objective(batch, temperature)` -> (mean loss, statistics).

    The loss is 0-d, float32 (float64 for float64 predictions). `average` is the mean over the
    processes, for objectives that look across the batch; those call it in every micro batch.
    """

    needs_reference: ClassVar[bool] = True
    takes_pairs: ClassVar[bool] = False
    """The batch holds pairs of one prompt, a winner and a loser, that share timestep and noise."""
    default_group: ClassVar[int] = 1
    """How many samples of one prompt come together, unless objective.group says; of pairs always 2."""
    least_group: ClassVar[int] = 1
    """How many have to."""
    positives_only: ClassVar[bool] = False
    """Samples below the threshold are left out of the training set."""
    needs_positives: ClassVar[bool] = False
    """Learns from samples at or above the threshold: there must be some."""
    needs_negatives: ClassVar[bool] = False
    """Learns from samples below the threshold: there must be some."""
    weighs: ClassVar[bool] = False
    """Weighs samples by their distance from the threshold: by `confidence`, or by the labels' weights."""
    saturates: ClassVar[bool] = True
    """A sigmoid of r: samples of large |r| teach little."""
    default_beta: ClassVar[float] = 1.0
    default_temperature: ClassVar[float | None] = None
    """None is the model family's."""
    constants_type: ClassVar[type[Any]] = NoConstants
    """A frozen dataclass with defaults, filled from [objective.NAME] of a run's TOML file."""

    def __init__(
        self,
        settings: Settings | None = None,
        average: Average = alone,
        constants: Any = None,
    ) -> None:
        self.settings = settings or Settings()
        self.average = average
        self.constants = self.constants_type() if constants is None else constants
        beta = self.settings.beta
        self.beta = self.default_beta if beta is None else beta
        self.restore({})

    @abstractmethod
    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        """Compute the mean loss over the micro batch, and its statistics."""

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise ValueError for a run (a `tglo.train.TrainConfig`) that the objective cannot work with."""
        name = config.objective.name
        for key in () if cls.weighs else ("weight_normalisation", "balance"):
            if getattr(config.objective, key):
                raise ValueError(
                    f"objective.{key} changes the weights by the distance from the threshold, which "
                    f"objective {name} has not; leave it out, or use tgo"
                )
        cls._check_group(config)

    @classmethod
    def group_size(cls, chosen: int | str) -> int:
        """Return how many samples a unit has, where objective.group is `chosen`."""
        if cls.takes_pairs:
            return 2
        return cls.default_group if isinstance(chosen, str) else chosen

    @classmethod
    def _check_group(cls, config: Any) -> None:
        objective, micro_batch = config.objective, config.optimizer.micro_batch
        size, name = cls.group_size(objective.group), objective.name
        if cls.takes_pairs and objective.group not in ("default", 2):
            raise ValueError(
                f"objective.group is {objective.group}, but objective {name} takes pairs, groups of 2; leave it out"
            )
        if size < cls.least_group:
            raise ValueError(
                f"objective.group is {size}, but objective {name} compares the samples of a group: it must "
                f"be at least {cls.least_group}"
            )
        if cls.takes_pairs and micro_batch % 2:
            raise ValueError(
                f"optimizer.micro_batch is {micro_batch}, but objective {name} takes pairs: it must be "
                "even, two samples per pair"
            )
        if micro_batch % size:
            raise ValueError(
                f"optimizer.micro_batch is {micro_batch}, but objective {name} takes groups of {size} samples "
                f"(objective.group): it must be a multiple of {size}"
            )
        known = config.data.draws_of == "prompt" or not objective.share_draws
        if size > 1 and not known and objective.reference == "cached":
            takes = "pairs" if cls.takes_pairs else f"groups of {size}"
            raise ValueError(
                f"objective.reference is cached, but objective {name} takes {takes}: their images share "
                "timestep and noise, and the cache holds errors of each sample's own; use "
                "copy, or adapter-off with a LoRA, or draws that a cache knows, by data.draws_of = prompt or "
                "objective.share_draws = false"
            )

    @property
    def markers(self) -> tuple[str, str] | None:
        """Texts put before the prompts of good and of bad samples; None leaves prompts as they are."""
        return None

    def state(self) -> dict[str, float]:
        """The numbers that a checkpoint has to keep."""
        return {}

    def restore(self, state: dict[str, float]) -> None:  # noqa: B027 (most have no state)
        """Resume from `state`; an empty one is a fresh start, which the constructor makes too."""

    def ratio(self, batch: MicroBatch, temperature: float) -> LogRatio:
        """Compute ell, with a gradient, and the errors, by the backend of the settings."""
        return batch.log_ratio(temperature, self.settings.backend)

    def error(self, batch: MicroBatch) -> Tensor:
        """Compute the policy's error, (B,) float64, with a gradient, by the backend of the settings."""
        return batch.error(self.settings.backend)


def statistics_of_error(batch: MicroBatch, error: Tensor, weight: Tensor | None = None) -> TGOStats:
    """Return the statistics of an objective without a reference: r and the reference's error are 0."""
    zero = torch.zeros_like(error)
    return statistics(batch, LogRatio(zero, error.detach(), zero), zero, weight)
