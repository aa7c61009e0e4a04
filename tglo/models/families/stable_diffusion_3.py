"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from tglo.models.families.flow import FlowFamily, Imported
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.families.several_encoders import SeveralEncoders
from tglo.models.text import TextPart
from tglo.noise.density import Density, LogitNormal

_CLIP = ("CLIPTextModelWithProjection",)
_CLIP_TOKENS, _T5_TOKENS = 77, 256
_VAE = {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]}
_MEDIUM: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}


class StableDiffusion3(SeveralEncoders, FlowFamily):
    """Transformer conditioned on two CLIP text encoders and T5; with classifier-free guidance.

    Padding is attended to, so embeddings keep their full length. Training draws timesteps from a
    logit-normal density, as the model's authors did.
    """

    name = "stable-diffusion-3"
    pipeline_class: ClassVar[Any] = Imported("StableDiffusion3Pipeline")
    denoiser_class: ClassVar[Any] = Imported("SD3Transformer2DModel")
    architectures: ClassVar[dict[str, Any]] = {
        "sd3-medium": (_MEDIUM, _VAE),
        "sd35-medium": (
            {
                **_MEDIUM,
                "pos_embed_max_size": 384,
                "qk_norm": "rms_norm",
                "dual_attention_layers": list(range(13)),
            },
            _VAE,
        ),
        "sd35-large": (
            {
                **_MEDIUM,
                "num_layers": 38,
                "num_attention_heads": 38,
                "caption_projection_dim": 2432,
                "qk_norm": "rms_norm",
            },
            _VAE,
        ),
    }
    published = tuple(architectures)
    text_parts: ClassVar[tuple[TextPart, ...]] = (
        TextPart("tokenizer", "text_encoder", model_type="clip_text_model", classes=_CLIP),
        TextPart("tokenizer_2", "text_encoder_2", model_type="clip_text_model", classes=_CLIP),
        TextPart(
            *("tokenizer_3", "text_encoder_3", _T5_TOKENS),
            model_type="t5",
            classes=("T5EncoderModel",),
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {
        "joint_attention_dim": {"text_encoder_3": 1}
    }
    unused_parts: ClassVar[dict[str, Any]] = {"image_encoder": None, "feature_extractor": None}
    explicit_sigmas = False
    longest_shift = 1.16
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )
    timestep_density: ClassVar[Density] = LogitNormal()

    def latent_shape(self, height: int, width: int, frames: int | None = None) -> tuple[int, ...]:
        """See Model.latent_shape; ValueError for sides beyond the transformer's table of places."""
        most = self.denoiser.config.pos_embed_max_size * self.bucket_step
        if max(height, width) > most:
            raise ValueError(
                f"{height} x {width} pixels: this model has places for sides of up to {most} pixels; use a "
                "lower resolution, or no buckets for other shapes than squares"
            )
        return super().latent_shape(height, width, frames)

    @torch.no_grad()
    def encode_with(self, number: int, prompts: Sequence[str]) -> Tensors:
        """Return a CLIP encoder's last hidden states but one and its projection, or T5's last hidden states."""
        ids, _ = self._tokens(prompts, number)
        output = self.text_encoders[number](ids, output_hidden_states=number < 2)
        if number < 2:
            return {"hidden": output.hidden_states[-2], "pooled": output[0]}
        return {"hidden": output[0]}

    def combine(self, parts: Sequence[Tensors]) -> Tensors:
        """Return prompt_embeds (B, 77 + 256, width of T5) and pooled_prompt_embeds (B, both CLIP widths).

        The CLIP encoders' states stand side by side, filled up with zeros to the width of T5's.
        """
        *both, t5 = parts
        clip = torch.cat([part["hidden"] for part in both], dim=-1)
        clip = functional.pad(clip, (0, t5["hidden"].shape[-1] - clip.shape[-1]))
        return {
            "prompt_embeds": torch.cat([clip, t5["hidden"]], dim=1),
            "pooled_prompt_embeds": torch.cat([part["pooled"] for part in both], dim=-1),
        }

    @classmethod
    def for_index(cls, index: Mapping[str, Any]) -> type[Any]:
        """Return the class without T5 for a folder whose index has null for it."""
        return cls if any(index.get("text_encoder_3") or [True]) else StableDiffusion3WithoutT5

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
        return denoiser(
            hidden_states=noisy.to(dtype),
            timestep=timesteps,
            encoder_hidden_states=conditions["prompt_embeds"].to(dtype),
            pooled_projections=conditions["pooled_prompt_embeds"].to(dtype),
            return_dict=False,
        )[0]

    def example_text(self, batch: int) -> Tensors:
        config = self.denoiser.config
        tokens = _CLIP_TOKENS + _T5_TOKENS
        return {
            "prompt_embeds": self._random(batch, tokens, config.joint_attention_dim),
            "pooled_prompt_embeds": self._random(batch, config.pooled_projection_dim),
        }


class StableDiffusion3WithoutT5(StableDiffusion3):
    """Zeros in the place of T5's states, as the pipeline without it has them."""

    text_parts = StableDiffusion3.text_parts[:2]
    text_widths: ClassVar[dict[str, dict[str, int]]] = {}
    unused_parts: ClassVar[dict[str, Any]] = {
        **StableDiffusion3.unused_parts,
        "text_encoder_3": None,
        "tokenizer_3": None,
    }

    def combine(self, parts: Sequence[Tensors]) -> Tensors:
        clip, width = parts[0]["hidden"], self.denoiser.config.joint_attention_dim
        return super().combine([*parts, {"hidden": clip.new_zeros(len(clip), _T5_TOKENS, width)}])
