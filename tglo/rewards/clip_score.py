"""CLIP score: 100 times the cosine similarity of image and prompt.

Unlike in the paper that named it (arXiv 2104.08718), it is neither cut off at 0 nor multiplied by 2.5.
The default is openai/clip-vit-large-patch14. Images and prompts are prepared as in github.com/openai/CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from tglo.rewards.clip_encoder import ClipEncoder, clean
from tglo.rewards.model import RewardModel
from tglo.rewards.weights import WEIGHTS, Part, clip_model, clip_tokenizer

VIT_L = "openai/clip-vit-large-patch14"


class ClipScore(RewardModel):
    """The CLIP score of any CLIPModel folder of transformers."""

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: clip_model(VIT_L),
        "tokenizer": clip_tokenizer(VIT_L),
    }

    def __init__(
        self,
        files: Mapping[str, Path],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(files, device, dtype)
        self.encoder = ClipEncoder.from_folder(
            files[WEIGHTS], files["tokenizer"], self.device, self.dtype
        )

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return CLIP scores (B,) in [-100, 100]."""
        return 100 * self.encoder.cosine(self.encoder.prepare(images), clean(prompts))
