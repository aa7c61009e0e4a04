"""aMUSEd (arXiv 2401.01808): a U-ViT over the tokens of a VQ model."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import AmusedPipeline
from torch import Tensor

from tglo.models.families.masked import MaskedFamily
from tglo.models.families.model import Tensors
from tglo.models.modules.uvit import UVit2DModel


class Amused(MaskedFamily):
    """UVit2DModel, VQModel and one CLIP text encoder."""

    name = "amused"
    pipeline_class: ClassVar[Any] = AmusedPipeline
    denoiser_class: ClassVar[Any] = UVit2DModel

    def arguments(self, pooled: Tensor, timesteps: Tensor) -> Tensors:
        """See MaskedFamily.arguments; this model is not told how much is hidden."""
        return {"pooled_text_emb": pooled}

    def _text_widths(self) -> tuple[int, int]:
        config = self.denoiser.config
        return config.encoder_hidden_size, config.cond_embed_dim
