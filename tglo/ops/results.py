"""What the operators of the loss return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tglo.reference import TGOResult


class KernelResult(NamedTuple):
    """A loss, and its statistics as a kernel writes them; most callers never look at them, so they are
    one tensor until one does.
    """

    loss: Tensor
    statistics: Tensor  # (batch + 2 rows,) float64: implicit_score, policy_error, reference_error
    rows: int

    def split(self) -> TGOResult:
        """Return views of the statistics."""
        rows, length = self.rows, self.statistics.shape[0]
        return TGOResult(self.loss, *self.statistics.split((length - 2 * rows, rows, rows)))


Result = KernelResult | TGOResult
