"""The interface of a reward model that is read from files, and the networks that such models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tglo.rewards.weights import Part, checked, stamp


class RewardModel(ABC):
    """A scorer with weights. A subclass states its parts and defines `read` and `score`.

    files: a path per part, as `tglo.rewards.weights.locate` finds them.
    dtype: the network's; embeddings are compared, and linear layers computed, in float32 or wider.
    identity: changes with the weights and the dtype, so that only the same model continues an
        interrupted scoring.
    """

    parts: ClassVar[Mapping[str, Part]]
    takes: ClassVar[str] = "images"

    def __init__(
        self,
        files: Mapping[str, Path],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.identity = f"{type(self).__name__} {str(dtype).removeprefix('torch.')} {stamp(files)}"
        self.read(files)

    @abstractmethod
    def read(self, files: Mapping[str, Path]) -> None:
        """Load the networks; ValueError for files that do not belong to this model."""

    @abstractmethod
    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return scores (B,) of B >= 1 images of any size and mode for their prompts."""

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """Return scores (B,) float64; ValueError unless there are as many prompts as images."""
        if len(images) != len(prompts):
            raise ValueError(
                f"{len(images)} {self.takes} but {len(prompts)} prompts; give one each"
            )
        if not images:
            return np.zeros(0)
        with torch.inference_mode():
            return self.score(images, prompts).to("cpu", torch.float64).numpy()


def build(
    kind: Any,
    config: Any,
    path: Path,
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Any:
    """Build a frozen transformers model of the weights `state`, which must be exactly its own.

    path: their file, named by the ValueError for others. options: arguments of the class `kind`.
    """
    with torch.device("meta"):
        checked(path, state, kind(config, **options).state_dict())
    model = kind.from_pretrained(None, config=config, state_dict=state, dtype=dtype, **options)
    return model.eval().requires_grad_(False)


def tower(state: Mapping[str, Tensor], layers: str, width: int, head: int) -> dict[str, Any]:
    """Return the settings of a transformer that follow from its weights' shapes.

    layers: the prefix of its layers' names. head: width of an attention head, which no shape shows.
    """
    return {
        "hidden_size": width,
        "num_attention_heads": width // head,
        "intermediate_size": state[f"{layers}0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": sum(
            name.startswith(layers) and name.endswith("mlp.fc1.weight") for name in state
        ),
    }


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
