"""LTX-Video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.models.codecs import LtxCodec
from tglo.models.families.flow import Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.families.video import VideoFamily
from tglo.models.text import TextPart

_TOKENS = 128


class Ltx(VideoFamily):
    """Transformer on latents as tokens, conditioned on T5's states, and on the frame rate by the places of
    its rotary embedding.
    """

    name = "ltx"
    patch = 1
    default_frames = 161
    default_size = (512, 704)
    frame_rate = 25.0
    pipeline_class: ClassVar[Any] = Imported("LTXPipeline")
    denoiser_class: ClassVar[Any] = Imported("LTXVideoTransformer3DModel")
    architectures: ClassVar[dict[str, Any]] = {
        "ltx-2b": (
            {},
            {
                "latent_channels": 128,
                "spatio_temporal_scaling": [True, True, True, False],
                "patch_size": 4,
                "patch_size_t": 1,
                "scaling_factor": 1.0,
            },
        ),
    }
    published = tuple(architectures)
    text_parts = (
        TextPart(
            *("tokenizer", "text_encoder", _TOKENS), model_type="t5", classes=("T5EncoderModel",)
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {"caption_channels": {"text_encoder": 1}}
    codec_class = LtxCodec

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, L, width of T5) and prompt_mask (B, L): T5 itself sees the padding to 128
        tokens, the transformer does not.
        """
        ids, mask = self._tokens(prompts, 0)
        hidden = self.text_encoders[0](ids)[0]
        longest = int(mask.sum(1).max())
        mask = mask[:, :longest].bool()
        return {"prompt_embeds": hidden[:, :longest] * mask.unsqueeze(-1), "prompt_mask": mask}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents (B, C, F, h, w) and embeddings are converted to the denoiser's dtype."""
        dtype, codec = self.dtype_of(denoiser), self.codec
        frames, height, width = noisy.shape[2:]
        scale = codec.spatial_scale
        packed = denoiser(
            hidden_states=noisy.to(dtype).flatten(2).transpose(1, 2),
            encoder_hidden_states=conditions["prompt_embeds"].to(dtype),
            timestep=timesteps,
            encoder_attention_mask=conditions["prompt_mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(codec.temporal_scale / self.frame_rate, scale, scale),
            return_dict=False,
        )[0]
        return packed.transpose(1, 2).reshape(noisy.shape)

    def example_text(self, batch: int) -> Tensors:
        return self._example_prompt(batch, self.denoiser.config.caption_channels)
