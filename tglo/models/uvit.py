"""diffusers' UVit2DModel with a head that can compute the loss."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
from torch import Tensor

from tglo.models.token_head import TokenHead


class UVit2DModel(diffusers.UVit2DModel):
    """The same model, weights and files; of its name, which a saved configuration states."""

    mlm_layer: Any

    # For diffusers, which reads the constructor's signature for the configuration.
    @functools.wraps(diffusers.UVit2DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mlm_layer.conv2 = TokenHead.like(self.mlm_layer.conv2)

    @property
    def head(self) -> TokenHead:
        """The last layer, which computes the loss."""
        return self.mlm_layer.conv2

    def forward(
        self, *args: Any, targets: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Logits (B, V, h, w) as diffusers' own; with targets, the true tokens (B, h, w) int64, and
        mask (B, h, w) bool, minus the mean log-probability of the masked ones, (B,) float64.
        """
        with self.head.scoring(targets, mask):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
