"""diffusers' UVit2DModel with a head that can compute the loss, and blocks that can be recomputed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from tglo.models.modules.token_head import TokenHead

_recompute = functools.partial(torch_checkpoint, use_reentrant=False)


class Block(BasicTransformerBlock):
    """A transformer block whose forward pass goes through `checkpoint`, where that is set.

    Here and not through diffusers' switch, because its U-ViT calls a checkpointed block by names that
    the checkpoint does not take (0.42).
    """

    checkpoint: Callable[..., Tensor] | None = None

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:  # type: ignore[override]
        """See BasicTransformerBlock."""
        run: Any = functools.partial(super().forward, **given)
        if self.checkpoint is None or not torch.is_grad_enabled():
            return run(hidden_states)
        return self.checkpoint(run, hidden_states)


class UVit2DModel(diffusers.UVit2DModel):
    """diffusers' model with the same weights and files, and with its name, which a saved configuration states."""

    mlm_layer: Any
    transformer_layers: Any
    _repeated_blocks = ["Block"]  # noqa: RUF012

    # For diffusers, which reads the constructor's signature for the configuration.
    @functools.wraps(diffusers.UVit2DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mlm_layer.conv2 = TokenHead.like(self.mlm_layer.conv2)
        for layer in self.transformer_layers:
            layer.__class__ = Block  # which has no state of its own

    @property
    def head(self) -> TokenHead:
        """The last layer, which computes the loss."""
        return self.mlm_layer.conv2

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The transformer's blocks are computed again in the backward pass."""
        return any(layer.checkpoint is not None for layer in self.transformer_layers)

    def enable_gradient_checkpointing(self, checkpoint: Callable[..., Tensor] = _recompute) -> None:
        """Compute the transformer's blocks again in the backward pass, but not the convolutions around
        them. checkpoint: (function, its input) -> its output, such as tglo.models.execution.checkpointing has.
        """
        for layer in self.transformer_layers:
            layer.checkpoint = checkpoint

    def disable_gradient_checkpointing(self) -> None:
        """Keep every activation again."""
        for layer in self.transformer_layers:
            layer.checkpoint = None

    def forward(
        self, *args: Any, targets: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Return logits (B, V, h, w) as diffusers' own does; with targets, the true tokens (B, h, w) int64, and
        mask (B, h, w) bool, minus the mean log-probability of the masked ones, (B,) float64.
        """
        with self.head.scoring(targets, mask):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
