"""What a draw becomes on the device: the denoiser's inputs, and how its answers are compared.

A continuous model answers with a prediction, whose mean square error counts. A masked model is given
the true tokens and answers with its error itself, minus the mean log-probability of the hidden ones:
its logits never leave the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tglo.losses.tgo import prediction_error
from tglo.noise import masking, noising
from tglo.objectives import Given


@dataclass(frozen=True, eq=False)
class Drawn:
    """B draws of a continuous model."""

    index: Tensor
    """(B,) int64, timesteps as indices into the schedule."""
    noisy: Tensor
    """(B, C, h, w) latents at that timestep."""
    target: Tensor
    """(B, C, h, w), what the denoiser should answer."""
    conditions: dict[str, Any]

    @classmethod
    def make(
        cls,
        stored: dict[str, Tensor],
        key: noising.Key,
        own: noising.Key,
        schedule: Any,
        strata: int,
        dtype: torch.dtype,
        conditions: dict[str, Any],
    ) -> Drawn:
        """From the posterior's mean and std (B, C, h, w), as stored.

        key: whose timestep and noise the rows take; own: their own, for the sample of the posterior.
        """
        mean, std = stored["mean"].float(), stored["std"].float()
        epsilon = noising.normal(own, mean.shape[1:], device=mean.device)
        latents = (mean + std * epsilon).to(dtype)
        index = noising.draw_index(key, schedule, strata)
        return cls(
            index=index,
            noisy=noising.diffuse(latents, index, key, schedule),
            target=noising.target(latents, index, key, schedule),
            conditions=conditions,
        )

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What `Family.predict` is given beside the denoiser."""
        return self.noisy, self.index, self.conditions

    def error(self, answer: Tensor) -> Tensor:
        """The error of what `Family.predict` answered, (B,) float64, without a gradient."""
        return prediction_error(answer, self.target)

    def given(
        self, policy: Tensor, reference: Tensor | None, cached: Tensor | None, **rest: Any
    ) -> Given:
        """What the objective is given of the answers, and of the reference's cached error (B,)."""
        return Given(policy, self.target, reference_pred=reference, reference_error=cached, **rest)


@dataclass(frozen=True, eq=False)
class MaskedDrawn(Drawn):
    """B draws of a masked model: index (B,) int64 is how many tokens are hidden, noisy (B, h, w) int64
    the tokens with the mask's id in the hidden places, target (B, h, w) int64 the true tokens.
    """

    @classmethod
    def make(
        cls,
        stored: dict[str, Tensor],
        key: noising.Key,
        own: noising.Key,
        schedule: Any,
        strata: int,
        dtype: torch.dtype,
        conditions: dict[str, Any],
    ) -> MaskedDrawn:
        """From the tokens (B, h, w), as stored; no dtype and no posterior has a part in it."""
        tokens = stored["tokens"].long()
        height, width = tokens.shape[1:]
        mask = masking.draw_mask(key, schedule, (height, width), strata)
        return cls(
            index=mask.sum((1, 2)),
            noisy=torch.where(mask, schedule.mask_token, tokens),
            target=tokens,
            conditions=conditions,
        )

    @property
    def inputs(self) -> tuple[Any, ...]:
        return self.noisy, self.index, self.conditions, self.target

    def error(self, answer: Tensor) -> Tensor:
        return answer.detach().double()

    def given(
        self, policy: Tensor, reference: Tensor | None, cached: Tensor | None, **rest: Any
    ) -> Given:
        """The answers are errors; the reference's stands where a cached one would."""
        return Given(
            policy, None, reference_error=cached if reference is None else reference, **rest
        )
