"""FLUX.1, dev and schnell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.families.several_encoders import SeveralEncoders
from tglo.models.folder import read_config
from tglo.models.text import TextPart

_TOKENS, _SCHNELL_TOKENS = 512, 256
_VAE = {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]}


class Flux(SeveralEncoders, FlowFamily):
    """Transformer on packed latents, conditioned on T5's states and CLIP's pooled embedding.

    The guidance is distilled into dev, which takes it as a number and has no second pass; schnell takes
    none. Padding is attended to, so embeddings keep their full length: of dev 512 tokens, of schnell 256,
    as each was trained by its authors and as the model cards sample. (FluxPipeline itself takes 512 for both
    unless it is told.)
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
        TextPart(
            "tokenizer", "text_encoder", model_type="clip_text_model", classes=("CLIPTextModel",)
        ),
        TextPart(
            *("tokenizer_2", "text_encoder_2", _TOKENS),
            model_type="t5",
            classes=("T5EncoderModel",),
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {
        "joint_attention_dim": {"text_encoder_2": 1},
        "pooled_projection_dim": {"text_encoder": 1},
    }
    unused_parts: ClassVar[dict[str, Any]] = {"image_encoder": None, "feature_extractor": None}
    guidance_in_model = True

    @property
    def has_guidance(self) -> bool:
        return bool(self.denoiser.config.guidance_embeds)

    @classmethod
    def image_settings(cls, path: Path) -> dict[str, str]:
        """Return schnell's number of tokens: images made with 512 are others."""
        guided = read_config(path / cls.denoiser_part / "config.json").get("guidance_embeds", False)
        return {} if guided else {"tokens": str(_SCHNELL_TOKENS)}

    @property
    def tokens(self) -> int:
        """T5's, of a prompt: no more than its tokenizer states, which the published ones never fall short of."""
        tokens = _TOKENS if self.has_guidance else _SCHNELL_TOKENS
        tokenizers: list[Any] = getattr(self, "tokenizers", [])  # none without a folder
        return min(tokens, tokenizers[1].model_max_length) if tokenizers else tokens

    def text_settings(self) -> dict[str, str]:
        """Return the number of tokens where it is not dev's; see Model.text_settings."""
        return {} if self.tokens == _TOKENS else {"tokens": str(self.tokens)}

    @torch.no_grad()
    def encode_with(self, number: int, prompts: Sequence[str]) -> Tensors:
        """Return pooled_prompt_embeds (B, width of CLIP), or prompt_embeds (B, 512 or 256, width of T5)."""
        encoder, length = self.text_encoders[number], self.tokens if number else None
        output = encoder(self._tokens(prompts, number, length)[0])
        if number == 0:
            return {"pooled_prompt_embeds": output.pooler_output.to(encoder.dtype)}
        return {"prompt_embeds": output[0].to(encoder.dtype)}

    def combine(self, parts: Sequence[Tensors]) -> Tensors:
        """Return both."""
        clip, t5 = parts
        return {**t5, **clip}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
        batch, channels, height, width = noisy.shape
        prompt = conditions["prompt_embeds"].to(dtype)
        with noisy.device:  # made there: a copy from the CPU would wait for a GPU
            image_ids = self.pipeline_class._prepare_latent_image_ids(
                batch, height // 2, width // 2, noisy.device, dtype
            )
        packed = denoiser(
            hidden_states=self.pipeline_class._pack_latents(
                noisy.to(dtype), batch, channels, height, width
            ),
            timestep=timesteps / 1000,
            guidance=self._guidance(conditions, timesteps),
            pooled_projections=conditions["pooled_prompt_embeds"].to(dtype),
            encoder_hidden_states=prompt,
            txt_ids=torch.zeros(prompt.shape[1], 3, device=noisy.device, dtype=dtype),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        scale = self.spatial_scale
        return self.pipeline_class._unpack_latents(packed, height * scale, width * scale, scale)

    def example_text(self, batch: int) -> Tensors:
        config = self.denoiser.config
        return {
            "prompt_embeds": self._random(batch, self.tokens, config.joint_attention_dim),
            "pooled_prompt_embeds": self._random(batch, config.pooled_projection_dim),
        }
