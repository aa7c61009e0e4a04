"""aMUSEd (arXiv 2401.01808): a U-ViT over the tokens of a VQ model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from diffusers import AmusedPipeline
from torch import Tensor

from tglo.models.families.masked import MaskedFamily, dtype_of
from tglo.models.modules.uvit import UVit2DModel


class Amused(MaskedFamily):
    """UVit2DModel, VQModel and one CLIP text encoder."""

    name = "amused"
    pipeline_class: ClassVar[Any] = AmusedPipeline
    denoiser_class: ClassVar[Any] = UVit2DModel

    def call(
        self,
        denoiser: Callable[..., Any],
        noisy: Tensor,
        timesteps: Tensor,
        conditions: dict[str, Tensor],
        **known: Tensor,
    ) -> Tensor:
        """See MaskedFamily.call; this model is not told how much is hidden."""
        dtype = dtype_of(denoiser, self.denoiser)
        return denoiser(
            noisy,
            encoder_hidden_states=conditions["encoder_hidden_states"].to(dtype),
            pooled_text_emb=conditions["pooled_prompt_embeds"].to(dtype),
            micro_conds=conditions["micro_conds"],
            **known,
        )

    def _text_widths(self) -> tuple[int, int]:
        config = self.denoiser.config
        return config.encoder_hidden_size, config.cond_embed_dim
