"""LAION aesthetic predictor: people's rating of an image from 1 to 10; the prompt is ignored.

It is a linear head on the normalised image embedding of CLIP ViT-L/14, trained on the ratings of SAC,
LAION-Logos and AVA (github.com/christophschuhmann/improved-aesthetic-predictor).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from tglo.rewards.clip_encoder import ClipEncoder
from tglo.rewards.clip_score import VIT_L
from tglo.rewards.linear_head import linear_head
from tglo.rewards.model import RewardModel
from tglo.rewards.weights import WEIGHTS, Part, clip_model, load_state

FILE = "sac+logos+ava1-l14-linearMSE.pth"
PAGE = "https://github.com/christophschuhmann/improved-aesthetic-predictor"


class Aesthetic(RewardModel):
    """The head (part "weights", which is not on the hub) over a CLIPModel (part "clip")."""

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: Part(((FILE,),), None, page=PAGE, single=True),
        "clip": clip_model(VIT_L),
    }

    def __init__(
        self,
        files: Mapping[str, Path],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(files, device, dtype)
        path = files[WEIGHTS]
        self.encoder = ClipEncoder.from_folder(files["clip"], None, self.device, self.dtype)
        width = self.encoder.model.config.projection_dim
        self.head = linear_head(path, load_state(path), width, "layers.")

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return ratings (B,), mostly between 1 and 10, though nothing bounds them."""
        embeddings = self.encoder.images(self.encoder.prepare(images))
        return self.head(embeddings.float())[:, 0]
