"""A micro batch: the samples' labels, a draw of each and, once they were given, the models' answers.

The answers are compared here and nowhere else: predictions by the fused kernels, errors as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from tglo import reference
from tglo.losses import results
from tglo.losses.arguments import SampleOptions, scoring
from tglo.losses.log_ratio import LogRatio, log_ratio, log_ratio_of_errors, policy_error
from tglo.losses.results import TGOStats
from tglo.losses.tgo import tgo_loss
from tglo.noise.draw import Draw

_UNANSWERED = torch.empty(0)


@dataclass(frozen=True, eq=False)
class Labels:
    """The scores of B samples and what they are judged by, (B,) float64 each; `labels[rows]` selects."""

    scores: Tensor
    thresholds: Tensor
    """A sample is positive where its score is at least this."""
    quantiles: Tensor
    """In [0, 1]: the place of the score among those of its prompt."""
    weights: Tensor | None = None
    """w, where it is not 1 + c |s - tau|: normalised or balanced over the data set, or of an infinite c."""

    @property
    def positive(self) -> Tensor:
        """(B,) bool: score >= threshold."""
        return reference.label(self.scores, self.thresholds)

    @property
    def sign(self) -> Tensor:
        """z, (B,) float64: +1 where positive, else -1."""
        return 2.0 * self.positive.double() - 1.0

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: Any) -> Labels:
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Labels:
        """Copy to a device."""
        return self._each(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Labels:
        """Copy into pinned memory, from where a GPU copies without waiting."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Labels:
        weights = None if self.weights is None else change(self.weights)
        return Labels(change(self.scores), change(self.thresholds), change(self.quantiles), weights)


class BatchIds(NamedTuple):
    """The names of a micro batch's samples, for messages."""

    samples: Sequence[int]
    lines: Sequence[int]
    """Lines of the manifest."""


_NAMELESS = BatchIds((), ())


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """B samples with one draw each, on the training device, for a model that answers with predictions.

    An objective of pairs gets B / 2 winners, then their losers: rows i and i + B / 2 are a pair. Of groups of
    G it gets the B / G best of each group, then the others by rank: rows i, i + B / G, ... are a group.
    """

    labels: Labels
    draw: Draw
    timestep_weight: Tensor | float = 1.0
    """(B,) float64, omega."""
    reference_error: Tensor | None = None
    """(B,) float64, the reference's cached error of this draw, where it is cached."""
    policy_pred: Tensor = _UNANSWERED
    """The policy's answer, the only tensor that gets a gradient: (B, ...), like the draw's target."""
    reference_pred: Tensor | None = None
    """The reference's answer, where it is asked."""
    ids: BatchIds = _NAMELESS
    group: int = 1
    """G, the samples of a unit."""

    def answered(self, policy: Tensor, reference: Tensor | None) -> Self:
        """Return the batch with the answers of policy and reference filled in."""
        return replace(self, policy_pred=policy, reference_pred=reference)

    def error(self, backend: str = "auto") -> Tensor:
        """Compute the policy's error e_theta, (B,) float64, with a gradient."""
        return policy_error(self.policy_pred, self.draw.target, backend=backend)

    def residual(self) -> Tensor:
        """Compute the policy's prediction minus the target, (B, elements) in float32 or wider, without a gradient."""
        policy = self.policy_pred.detach()
        policy = policy.to(torch.promote_types(policy.dtype, torch.float32))
        return (policy - self.draw.target).flatten(1)

    def log_ratio(self, temperature: float, backend: str = "auto") -> LogRatio:
        """Compute ell, with a gradient, and the errors of policy and reference."""
        return log_ratio(
            self.policy_pred,
            self.draw.target,
            reference_pred=self.reference_pred,
            reference_error=self.reference_error,
            temperature=temperature,
            timestep_weight=self.timestep_weight,
            return_errors=True,
            backend=backend,
        )

    def tgo_loss(
        self, beta: float, temperature: float, confidence: float, backend: str = "auto"
    ) -> tuple[Tensor, TGOStats]:
        """Compute the mean TGO loss, in one launch, and its statistics. Weights that the labels have take the
        place of those by the confidence.
        """
        given = self.labels.weights
        weighed: SampleOptions = {} if given is None else {"sample_weight": given}
        return tgo_loss(
            self.policy_pred,
            self.draw.target,
            self.labels.scores,
            self.labels.thresholds,
            reference_pred=self.reference_pred,
            reference_error=self.reference_error,
            beta=beta,
            temperature=temperature,
            confidence=confidence if given is None else 0.0,
            timestep_weight=self.timestep_weight,
            return_stats=True,
            backend=backend,
            **weighed,
        )


class ErrorMicroBatch(MicroBatch):
    """A micro batch for a model that answers with its error (B,) itself (`answers_with_error`)."""

    def error(self, backend: str = "auto") -> Tensor:
        return self.policy_pred.double()

    def residual(self) -> Tensor:
        raise TypeError("a model that answers with its error gives no predictions")

    def log_ratio(self, temperature: float, backend: str = "auto") -> LogRatio:
        other = self.reference_error if self.reference_pred is None else self.reference_pred
        assert other is not None
        return log_ratio_of_errors(
            self.policy_pred, other, temperature=temperature, timestep_weight=self.timestep_weight
        )

    def tgo_loss(
        self, beta: float, temperature: float, confidence: float, backend: str = "auto"
    ) -> tuple[Tensor, TGOStats]:
        labels, error = self.labels, self.policy_pred
        given = labels.weights
        known = labels.scores, labels.thresholds, len(labels), error.device, beta
        scored = scoring(*known, confidence if given is None else 0.0, "mean", given)
        dtype = torch.promote_types(error.dtype, torch.float32)
        result = scored.by_reference(self.log_ratio(temperature), dtype)
        return result.loss, results.statistics(result, scored)


def mean_loss(per_sample: Tensor, batch: MicroBatch) -> Tensor:
    """Average losses (B,) in the dtype of a loss: float32, or float64 for float64 predictions."""
    return per_sample.mean().to(torch.promote_types(batch.policy_pred.dtype, torch.float32))


def statistics(
    batch: MicroBatch, ratio: LogRatio, r: Tensor, weight: Tensor | None = None
) -> TGOStats:
    """Return the statistics of r (B,) and the errors, with labels by the threshold and weights, by default 1."""
    return TGOStats(
        r.detach(),
        ratio.policy_error,
        ratio.reference_error,
        batch.labels.positive,
        torch.ones_like(ratio.policy_error) if weight is None else weight,
    )


def pair_statistics(ratio: LogRatio, margin: Tensor) -> TGOStats:
    """Return statistics in which r of a row is what the sigmoid sees: its pair's margin, the loser's negated.

    So the metrics of positives, negatives and implicit accuracy are those of the pairs.
    """
    margin = margin.detach()
    winner = torch.ones_like(margin, dtype=torch.bool)
    return TGOStats(
        torch.cat([margin, -margin]),
        ratio.policy_error,
        ratio.reference_error,
        torch.cat([winner, ~winner]),
        torch.ones_like(ratio.policy_error),
    )
