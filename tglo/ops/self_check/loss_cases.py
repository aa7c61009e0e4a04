"""The inputs on which the loss's kernels are tried, and the truth of each in float64.

Sizes reach each form of the launch where it exists: clusters of one and of several blocks, the
cooperative grid (more draws than a cluster takes, rows that no cluster holds) with more samples than
groups and with more blocks than one, the two launches; and the unrolled loops of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tglo import reference
from tglo.ops.arguments import Predictions, Scoring, kernel_arguments

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
ROUNDINGS = 2.0**-20
"""What float32 sums of a few thousand terms may lose of the sum of their magnitudes."""
TEMPERATURE, THRESHOLD, BETA, CONFIDENCE = 1e-3, 0.5, 0.7, 5.0


class Truth(NamedTuple):
    """Per-sample results in float64, and what the implicit score may be off by."""

    loss: Tensor
    implicit_score: Tensor
    policy_error: Tensor
    reference_error: Tensor
    coefficient: Tensor  # (rows,): d loss_b / d p = coefficient m (p - y)
    limit: float


@dataclass(frozen=True)
class LossCase:
    """A call of the loss on the CPU, without a reduction."""

    name: str
    predictions: Predictions
    scoring: Scoring
    shift: int
    """Elements by which the predictions are moved off the alignment of vectors."""
    brief: bool

    @property
    def dtype(self) -> torch.dtype:
        return self.predictions.policy_pred.dtype

    def on(
        self, device: torch.device, reduction: str
    ) -> tuple[list[Tensor | None], tuple[object, ...]]:
        """Return the operators' tensors, on the device, and numbers."""
        scoring = self.scoring._replace(reduction=reduction)
        tensors, numbers = kernel_arguments(self.predictions, scoring)
        predictions = [self.move(tensor, device) for tensor in tensors[:3]]
        return predictions + [None if x is None else x.to(device) for x in tensors[3:]], numbers

    def move(self, tensor: Tensor | None, device: torch.device) -> Tensor | None:
        """Copy a prediction to the device, off the alignment where the case says so."""
        if tensor is None:
            return None
        memory = torch.empty(tensor.numel() + self.shift, dtype=tensor.dtype, device=device)
        return memory[self.shift :].view(tensor.shape).copy_(tensor)

    def gradient(self, outer: Tensor) -> Tensor:
        """Return the exact gradient for that of the losses, (B,) float64."""
        given = self.predictions
        coefficient = outer.repeat_interleave(given.draws) * self.truth.coefficient
        wide = given.policy_pred.double(), given.target.double()
        return reference.prediction_gradient(*wide, coefficient, given.mask)

    @cached_property
    def truth(self) -> Truth:
        given, scoring = self.predictions, self.scoring
        other = given.reference_pred
        wide = given._replace(
            policy_pred=given.policy_pred.double(),
            target=given.target.double(),
            reference_pred=None if other is None else other.double(),
        )
        result = scoring.by_reference(wide.by_reference(), torch.float64)
        policy, mask = wide.policy_pred, wide.mask
        divisor: Tensor | float = policy[0].numel()
        if mask is not None and given.mask_mean == "mask":
            divisor = reference.row_weight(policy, mask)
        coefficient = reference.prediction_coefficient(
            result.implicit_score,
            scoring.scores,
            scoring.threshold,
            divisor,
            beta=scoring.beta,
            temperature=given.temperature,
            confidence=scoring.confidence,
            sample_weight=scoring.sample_weight,
            timestep_weight=given.timestep_weight,
            draws=given.draws,
        )
        terms = result.policy_error
        if wide.reference_pred is not None:  # mean |p - q| |p + q - 2y|, by Cauchy and Schwarz
            between = reference.prediction_error(policy, wide.reference_pred, mask, given.mask_mean)
            terms = (between * 2 * (result.policy_error + result.reference_error)).sqrt()
        strength = scoring.beta / given.temperature * given.timestep_weight
        limit = ROUNDINGS * (strength * terms).max().item()
        return Truth(*_unpacked(result), coefficient, limit)


def _unpacked(result: reference.TGOResult) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return result.loss, result.implicit_score, result.policy_error, result.reference_error


def make(
    note: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    cached: bool = False,
    masked: bool = False,
    draws: int = 1,
    shift: int = 0,
    mask_mean: str = "mask",
    brief: bool = False,
) -> LossCase:
    """Make a policy about 0.3 from its target, and a reference 0.01 from the policy."""
    random = torch.Generator("cpu").manual_seed(shape[-1] + draws)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, device="cpu", dtype=torch.float32)

    target = normal(*shape)
    policy = target + 0.3 * normal(*shape)
    other = (policy + 0.01 * normal(*shape)).to(dtype)
    policy, target, mask = policy.to(dtype), target.to(dtype), None
    if masked:
        mask = (normal(shape[0], *(1,) * (len(shape) - 2), shape[-1]) > -0.5).float()
        mask[-1] = 0.0  # a row that counts for nothing
        policy = torch.where(mask == 0, torch.nan, policy)  # nor does what a mask hides
    wide = other.double(), target.double()
    error = reference.prediction_error(*wide, mask, mask_mean) if cached else None
    weight = 0.5 + normal(shape[0]).abs() if draws > 1 else 1.0
    predictions = Predictions(
        *(policy, target, None if cached else other, error, mask),
        *(draws, TEMPERATURE, weight, mask_mean),
    )
    scores = torch.linspace(0.0, 1.0, shape[0] // draws, device="cpu", dtype=torch.float64)
    importance = torch.linspace(0.2, 1.0, len(scores), device="cpu", dtype=torch.float64)
    scoring = Scoring(
        *(scores, THRESHOLD, BETA, CONFIDENCE, "none"), importance if draws > 1 else 1.0
    )
    kinds = NAMES[dtype], "cached error" if cached else "reference", "mask" if masked else "", note
    return LossCase(", ".join(filter(None, kinds)), predictions, scoring, shift, brief)


_BRIEF = {("bf16", False, False), ("fp16", True, True), ("fp32", False, True)}


def cases() -> Iterator[LossCase]:
    """Make every kernel of every element type one case, and then the sizes that matter."""
    for number, dtype in enumerate(NAMES):
        for cached in (False, True):
            for masked in (False, True):
                odd = (number + cached + masked) % 2
                shape = (5, 3, 343) if odd else (4, 4, 256)
                brief = (NAMES[dtype], cached, masked) in _BRIEF
                yield make("", shape, dtype, cached=cached, masked=masked, brief=brief)
    half = torch.bfloat16
    yield make(
        "mean over elements", (4, 2, 36), half, cached=True, masked=True, mask_mean="elements"
    )
    yield make("not aligned", (4, 2, 512), half, shift=1)
    yield make("long rows", (2, 40_000), torch.float32)
    yield make("long rows", (1, 135_168), half, brief=True)
    yield make("very long rows", (1, 526_336), half)
    yield make("3 draws", (6, 2, 500), torch.float16, masked=True, draws=3, brief=True)
    yield make("12 draws", (24, 4096), half, draws=12)
    yield make("300 samples", (2700, 8), torch.float32, cached=True, draws=9)
