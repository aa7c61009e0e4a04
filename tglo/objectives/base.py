"""What an objective is: what it is given, what it needs, what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tglo.losses.log_ratio import LogRatio, log_ratio, log_ratio_of_errors, policy_error
from tglo.losses.results import TGOStats
from tglo.reference import label

Average = Callable[[Tensor], Tensor]
"""A tensor's mean over the processes, each of which has as many samples."""


def alone(mean: Tensor) -> Tensor:
    """The average of one process."""
    return mean


@dataclass(frozen=True, eq=False)
class Given:
    """One micro batch of B samples with one draw each, predicted.

    An objective of pairs gets B / 2 winners, then their losers: rows i and i + B / 2 are a pair.
    """

    policy_pred: Tensor
    """(B, ...) floating point, the only tensor that gets a gradient: a prediction or, without a
    target, its error, (B,).
    """
    target: Tensor | None
    """(B, ...) what the policy is trained to predict; None where errors are given."""
    scores: Tensor
    """(B,) float64."""
    threshold: Tensor
    """(B,) float64."""
    reference_pred: Tensor | None = None
    """(B, ...), or None where the error stands for it, or no reference is needed."""
    reference_error: Tensor | None = None
    """(B,) float64, cached, or given with the policy's."""
    quantile: Tensor | None = None
    """(B,) float64 in [0, 1], the score's among the scores of its prompt."""
    timestep_weight: Tensor | float | None = None
    """(B,) float64, omega; None is 1."""


@dataclass(frozen=True)
class Settings:
    """Constants of the objectives; beta None is the objective's own default."""

    beta: float | None = None
    confidence: float = 5.0
    positive_weight: float = 1.0
    negative_weight: float = 1.0
    backend: str = "auto"


class Objective(ABC):
    """A loss over micro batches; ``objective(given, temperature)`` -> (mean loss, statistics).

    The loss is 0-d, float32 (float64 for float64 predictions). `average` is the mean over the
    processes, for objectives that look across the batch; those call it in every micro batch.
    """

    needs_reference: ClassVar[bool] = True
    takes_pairs: ClassVar[bool] = False
    """The batch holds pairs of one prompt that share timestep and noise."""
    positives_only: ClassVar[bool] = False
    """Samples below the threshold are left out of the training set."""
    marks_prompts: ClassVar[bool] = False
    """Prompts are prefixed by whether the sample is good or bad."""
    saturates: ClassVar[bool] = True
    """A sigmoid of r: samples of large |r| teach little."""
    default_beta: ClassVar[float] = 1.0
    default_temperature: ClassVar[float | None] = None
    """None is the model family's."""

    def __init__(self, settings: Settings | None = None, average: Average = alone) -> None:
        self.settings = settings or Settings()
        self.average = average
        beta = self.settings.beta
        self.beta = self.default_beta if beta is None else beta

    @abstractmethod
    def __call__(self, given: Given, temperature: float) -> tuple[Tensor, TGOStats]:
        """The mean loss over the micro batch."""

    def state(self) -> dict[str, float]:
        """What a checkpoint has to keep."""
        return {}

    def restore(self, state: dict[str, float]) -> None:  # noqa: B027 (most have no state)
        """Go on from :meth:`state`; an empty one is a fresh start."""

    def ratio(self, given: Given, temperature: float) -> LogRatio:
        """ell with a gradient, and the errors."""
        if given.target is None:
            assert given.reference_error is not None
            return log_ratio_of_errors(
                given.policy_pred,
                given.reference_error,
                temperature=temperature,
                timestep_weight=given.timestep_weight,
            )
        return log_ratio(
            given.policy_pred,
            given.target,
            reference_pred=given.reference_pred,
            reference_error=given.reference_error,
            temperature=temperature,
            timestep_weight=given.timestep_weight,
            return_errors=True,
            backend=self.settings.backend,
        )

    def error(self, given: Given) -> Tensor:
        """The policy's error with a gradient, (B,) float64."""
        if given.target is None:
            return given.policy_pred.double()
        return policy_error(given.policy_pred, given.target, backend=self.settings.backend)


def mean_loss(per_sample: Tensor, given: Given) -> Tensor:
    """Their mean in the dtype of a loss."""
    return per_sample.mean().to(torch.promote_types(given.policy_pred.dtype, torch.float32))


def sign_of(given: Given) -> Tensor:
    """z, (B,) float64: +1 where score >= threshold, else -1."""
    return 2.0 * label(given.scores, given.threshold).double() - 1.0


def statistics(given: Given, ratio: LogRatio, r: Tensor, weight: Tensor | None = None) -> TGOStats:
    """r (B,) and the errors, with labels by the threshold and weights, by default 1."""
    return TGOStats(
        r.detach(),
        ratio.policy_error,
        ratio.reference_error,
        label(given.scores, given.threshold),
        torch.ones_like(ratio.policy_error) if weight is None else weight,
    )
