"""The chain of linear layers that ends ImageReward and the LAION aesthetic predictor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn


def linear_head(path: Path, state: Mapping[str, Tensor], width: int, prefix: str) -> nn.Sequential:
    """Build the map (B, width) -> (B, 1) from the layers PREFIX<number>.weight and .bias, in order.

    The published heads have five, without activations, and dropout in between, which scoring does
    not use. Raises ValueError naming the file if the layers do not fit each other.
    """
    numbers = sorted(
        int(name.removeprefix(prefix).split(".")[0])
        for name in state
        if name.startswith(prefix) and name.endswith(".weight")
    )
    layers = []
    into = width
    for number in numbers:
        weight, bias = (state.get(f"{prefix}{number}.{part}") for part in ("weight", "bias"))
        if weight is None or bias is None or weight.ndim != 2 or weight.shape[1] != into:
            break
        layer = nn.Linear(into, len(weight))
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
        into = len(weight)
    if not layers or len(layers) != len(numbers) or into != 1:
        shapes = [tuple(state[f"{prefix}{number}.weight"].shape) for number in numbers]
        raise ValueError(
            f"{path}: the linear layers {prefix}* have shapes {shapes}; they must lead from "
            f"{width} values to 1. Does the file belong to this model?"
        )
    return nn.Sequential(*layers).requires_grad_(False)
