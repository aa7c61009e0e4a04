"""PickScore (arXiv 2305.01569): cosine similarity times the model's own logit scale.

The weights are a CLIPModel (ViT-H/14), yuvalkirstain/PickScore_v1; images and prompts are prepared
by transformers' CLIP processor, as in its model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from tglo.rewards.clip_encoder import ClipEncoder
from tglo.rewards.model import RewardModel
from tglo.rewards.preprocessing import pixel_batch, shorter_side_crop
from tglo.rewards.weights import WEIGHTS, Part, clip_model, clip_tokenizer

VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # its base, with the processor


class PickScore(RewardModel):
    """The PickScore v1 reward model."""

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: clip_model("yuvalkirstain/PickScore_v1"),
        "tokenizer": clip_tokenizer(VIT_H),
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
        """Return logits (B,): the difference of two images' scores is their log-odds of preference."""
        size = self.encoder.image_size
        pixels = pixel_batch(images, lambda image: shorter_side_crop(image, size, "down"))
        return self.encoder.scale * self.encoder.cosine(pixels, prompts)
