"""The loss as a module."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from tglo import ops
from tglo.losses import checks
from tglo.losses.arguments import LossCallOptions
from tglo.losses.results import Reduction, TGOStats
from tglo.losses.tgo import tgo_loss

_OWN = frozenset(("beta", "temperature", "confidence", "reduction", "backend"))


class TGOLoss(nn.Module):
    """`tgo_loss` with its hyperparameters held by a module; it has no parameters and no buffers.

    `threshold`, if given, is the default of the call's argument of that name.
    """

    def __init__(
        self,
        threshold: float | None = None,
        *,
        beta: float = 1.0,
        temperature: float = 1e-3,
        confidence: float = 5.0,
        reduction: Reduction = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.check_number("beta", beta, above=0)
        checks.check_number("temperature", temperature, above=0)
        checks.check_confidence(confidence)
        checks.check_reduction(reduction)
        if threshold is not None:
            checks.check_number("threshold", threshold)
        ops.check_backend(backend)
        self.threshold = threshold
        self.beta = beta
        self.temperature = temperature
        self.confidence = confidence
        self.reduction: Reduction = reduction
        self.backend = backend

    def extra_repr(self) -> str:
        names = ("threshold", "beta", "temperature", "confidence", "reduction", "backend")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(
        self,
        policy_pred: Tensor,
        target: Tensor,
        scores: Tensor,
        threshold: Tensor | float | None = None,
        *,
        return_stats: bool = False,
        **options: Unpack[LossCallOptions],
    ) -> Tensor | tuple[Tensor, TGOStats]:
        """Compute `tgo_loss`; a threshold here takes the place of the module's. The options are those of
        `tgo_loss` that change from call to call: all but the module's own.
        """
        for name in options.keys() & _OWN:
            raise TypeError(
                f"{name} is the module's own: TGOLoss({name}=...), or call tglo.tgo_loss"
            )
        threshold = self.threshold if threshold is None else threshold
        if threshold is None:
            raise ValueError("threshold is None; pass it to TGOLoss or to the call")
        return tgo_loss(  # type: ignore[call-overload, no-any-return, misc]
            policy_pred,
            target,
            scores,
            threshold,
            beta=self.beta,
            temperature=self.temperature,
            confidence=self.confidence,
            reduction=self.reduction,
            return_stats=return_stats,
            backend=self.backend,
            **options,
        )
