"""FLUX.1, dev and schnell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.text import TextPart

_TOKENS = 512
_VAE = {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]}


class Flux(FlowFamily):
    """Transformer on packed latents, conditioned on T5's states and CLIP's pooled embedding.

    The guidance is distilled into dev, which takes it as a number and has no second pass; schnell takes
    none. Padding is attended to, so embeddings keep their full length.
    """

    name = "flux"
    default_side = 128
    packed = True
    pipeline_class: ClassVar[Any] = Imported("FluxPipeline")
    denoiser_class: ClassVar[Any] = Imported("FluxTransformer2DModel")
    architectures: ClassVar[dict[str, Any]] = {
        "flux-dev": ({"guidance_embeds": True}, _VAE),
        "flux-schnell": ({}, _VAE),
    }
    published = tuple(architectures)
    text_parts = (
        TextPart("tokenizer", "text_encoder"),
        TextPart("tokenizer_2", "text_encoder_2", length=_TOKENS),
    )
    unused_parts: ClassVar[dict[str, Any]] = {"image_encoder": None, "feature_extractor": None}
    guidance_in_model = True
    training_guidance: ClassVar[float] = 3.5
    """What dev is trained with: the guidance it is usually sampled with."""

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, 512, width of T5) and pooled_prompt_embeds (B, width of CLIP)."""
        clip, t5 = self.text_encoders
        pooled = clip(self._tokens(prompts, 0)[0]).pooler_output
        hidden = t5(self._tokens(prompts, 1)[0])[0]
        return {
            "prompt_embeds": hidden.to(t5.dtype),
            "pooled_prompt_embeds": pooled.to(clip.dtype),
        }

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; conditions["guidance"] (B,) is `training_guidance` by default."""
        dtype = self.dtype_of(denoiser)
        batch, channels, height, width = noisy.shape
        guidance = conditions.get("guidance")
        if not self.denoiser.config.guidance_embeds:
            guidance = None
        elif guidance is None:
            guidance = torch.full_like(timesteps, self.training_guidance)
        prompt = conditions["prompt_embeds"].to(dtype)
        packed = denoiser(
            hidden_states=self.pipeline_class._pack_latents(
                noisy.to(dtype), batch, channels, height, width
            ),
            timestep=timesteps / 1000,
            guidance=guidance,
            pooled_projections=conditions["pooled_prompt_embeds"].to(dtype),
            encoder_hidden_states=prompt,
            txt_ids=torch.zeros(prompt.shape[1], 3, device=noisy.device, dtype=dtype),
            img_ids=self.pipeline_class._prepare_latent_image_ids(
                batch, height // 2, width // 2, noisy.device, dtype
            ),
            return_dict=False,
        )[0]
        scale = self.spatial_scale
        return self.pipeline_class._unpack_latents(packed, height * scale, width * scale, scale)

    def example_text(self, batch: int) -> Tensors:
        config = self.denoiser.config
        return {
            "prompt_embeds": self._random(batch, _TOKENS, config.joint_attention_dim),
            "pooled_prompt_embeds": self._random(batch, config.pooled_projection_dim),
        }
