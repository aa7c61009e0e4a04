"""Statistics of objectives over pairs, a winner and a loser of one prompt.

Rows are the winners, then the losers; both of a pair have one timestep and noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tglo.losses.log_ratio import LogRatio
from tglo.losses.results import TGOStats


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
