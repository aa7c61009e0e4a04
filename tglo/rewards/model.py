"""The interface of a reward model that is read from files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tglo.rewards.weights import Part, stamp


class RewardModel(ABC):
    """A scorer with weights. A subclass states its parts, reads them, and defines `score`.

    files: a path per part, as `tglo.rewards.weights.locate` finds them.
    dtype: the network's; embeddings are compared, and linear layers computed, in float32 or wider.
    identity: changes with the weights and the dtype, so that only the same model continues an
        interrupted scoring.
    """

    parts: ClassVar[Mapping[str, Part]]

    def __init__(
        self,
        files: Mapping[str, Path],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.identity = f"{type(self).__name__} {str(dtype).removeprefix('torch.')} {stamp(files)}"

    @abstractmethod
    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return scores (B,) of B >= 1 images of any size and mode for their prompts."""

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """Return scores (B,) float64; ValueError unless there are as many prompts as images."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts; give one each")
        if not images:
            return np.zeros(0)
        with torch.inference_mode():
            return self.score(images, prompts).to("cpu", torch.float64).numpy()
