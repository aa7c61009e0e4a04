"""The vocabulary head of a masked model, a 1 x 1 convolution, where the loss is computed.

In the forward pass of the head itself, because that is what wrappers know of: ZeRO 3 gathers a
layer's weights for its own forward and backward only, and DDP reduces the gradients of what forward
returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from tglo.losses.tokens import token_error


class TokenHead(nn.Conv2d):
    """A 1 x 1 convolution that gives logits or, inside `scoring`, the error of known tokens."""

    backend: str = "auto"
    _known: tuple[Tensor, Tensor] | None = None

    @classmethod
    def like(cls, conv: nn.Conv2d) -> Self:
        """Make a head with the sizes of a convolution and untrained weights."""
        return cls(
            conv.in_channels,
            conv.out_channels,
            kernel_size=1,
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )

    @contextmanager
    def scoring(self, targets: Tensor | None, mask: Tensor | None) -> Iterator[None]:
        """Make forward give, inside, the error of targets, (B, h, w) int64, where mask, (B, h, w) bool, is
        true; without them it gives logits. ValueError for one of them without the other.
        """
        if targets is None and mask is None:
            self._known = None
        elif targets is None or mask is None:
            given, other = ("mask", "targets") if targets is None else ("targets", "mask")
            raise ValueError(
                f"{given} given without {other}; pass both for the error, neither for logits"
            )
        else:
            self._known = targets, mask
        try:
            yield
        finally:
            self._known = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Turn hidden (B, D, h, w) into logits (B, V, h, w), or the error (B,) float64."""
        if self._known is None:
            return super().forward(hidden)
        targets, mask = (tensor.flatten(1) for tensor in self._known)
        rows = hidden.flatten(2).transpose(1, 2)  # (B, N, D)
        weight, bias = self.weight.flatten(1), self.bias  # (V, D)
        kind = hidden.device.type
        # Autocast knows nothing of operators that are not PyTorch's; its convolution casts these.
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            rows, weight = rows.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return token_error(rows, weight, targets, mask, bias=bias, backend=self.backend)
