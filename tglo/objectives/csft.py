"""Conditional supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tglo.losses.results import TGOStats
from tglo.objectives.base import Objective, statistics_of_error
from tglo.objectives.micro_batch import MicroBatch, mean_loss


@dataclass(frozen=True)
class CSFTConstants:
    """Markers of conditional fine-tuning, objective.name = csft; see `tglo cache --markers`."""

    good_marker: str = "good image: "
    """Put before the prompts of samples at or above the threshold."""
    bad_marker: str = "bad image: "
    """Put before the other prompts."""


class CSFT(Objective):
    """Conditional fine-tuning on all samples, prompts prefixed by a good or a bad marker (Korbak et
    al., arXiv 2302.08582, as a baseline in Diffusion-KTO, arXiv 2404.04465): omega e_theta.
    """

    needs_reference = False
    needs_positives = True  # of the good marker, which the trained model is sampled with
    saturates = False
    constants_type = CSFTConstants
    constants: CSFTConstants

    @classmethod
    def check(cls, config: Any) -> None:
        super().check(config)
        constants = config.objective.constants
        if constants.good_marker == constants.bad_marker:
            raise ValueError(
                f"objective.csft.good_marker and bad_marker are both {constants.good_marker!r}; they "
                "must differ"
            )

    @property
    def markers(self) -> tuple[str, str]:
        return self.constants.good_marker, self.constants.bad_marker

    def __call__(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, TGOStats]:
        error = self.error(batch)
        return mean_loss(batch.timestep_weight * error, batch), statistics_of_error(batch, error)
