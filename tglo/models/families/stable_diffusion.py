"""Stable Diffusion 1.x and 2.x (epsilon- and v-prediction), and Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from tglo.models.families.base import Family


class StableDiffusion(Family):
    """UNet conditioned on the last hidden states of one CLIP text encoder."""

    name = "stable-diffusion"
    pipeline_class: ClassVar[Any] = StableDiffusionPipeline
    text_parts: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    unused_parts: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """prompt_embeds (B, 77, width), in the text encoder's dtype; of long prompts see `_tokens`."""
        ids, mask = self._tokens(prompts, 0)
        encoder = self.text_encoders[0]
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        output = encoder(ids, attention_mask=mask if uses_mask else None)
        return {"prompt_embeds": output[0].to(encoder.dtype)}

    def conditions(
        self, text: dict[str, Tensor], sizes: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """prompt_embeds; the sizes have no part in it."""
        return {name: tensor.to(self.device) for name, tensor in text.items()}

    def call(
        self,
        denoiser: Callable[..., Any],
        noisy: Tensor,
        timesteps: Tensor,
        conditions: dict[str, Tensor],
    ) -> Tensor:
        """As Family.call; latents and embeddings are converted to the denoiser's dtype."""
        module = denoiser if isinstance(denoiser, nn.Module) else self.denoiser
        dtype = next(module.parameters()).dtype
        options = {}
        if "time_ids" in conditions:
            # The time ids stay float32: bfloat16 would round a side of 1023 pixels to 1024.
            options["added_cond_kwargs"] = {
                "text_embeds": conditions["pooled_prompt_embeds"].to(dtype),
                "time_ids": conditions["time_ids"],
            }
        return denoiser(
            noisy.to(dtype),
            timesteps,
            encoder_hidden_states=conditions["prompt_embeds"].to(dtype),
            return_dict=False,
            **options,
        )[0]

    def example_text(self, batch: int) -> dict[str, Tensor]:
        width = self.denoiser.config.cross_attention_dim
        return {"prompt_embeds": self._random(batch, 77, width)}


class StableDiffusionXL(StableDiffusion):
    """UNet conditioned on two CLIP text encoders, a pooled embedding and the image's sizes."""

    name = "stable-diffusion-xl"
    pipeline_class = StableDiffusionXLPipeline
    text_parts = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    unused_parts: ClassVar[dict[str, Any]] = {"feature_extractor": None, "image_encoder": None}

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """prompt_embeds (B, 77, both widths) and pooled_prompt_embeds (B, width of the second).

        Both encoders give their last hidden states but one; the second also its projection.
        """
        hidden, output = [], None
        for part, encoder in enumerate(self.text_encoders):
            ids, _ = self._tokens(prompts, part)
            output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
        assert output is not None
        return {"prompt_embeds": torch.cat(hidden, dim=-1), "pooled_prompt_embeds": output[0]}

    def unconditional(self, empty: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Zeros where the folder asks for them (as SDXL's own does), else the empty prompt's."""
        empty = super().unconditional(empty)
        if self.pipeline_config.get("force_zeros_for_empty_prompt", True):
            return {name: torch.zeros_like(tensor) for name, tensor in empty.items()}
        return empty

    def conditions(
        self, text: dict[str, Tensor], sizes: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The embeddings and time_ids (B, 6) float32: original size, crop, target size."""
        if sizes is None:
            raise ValueError("SDXL needs sizes: original_size, crop and target_size, each (B, 2)")
        parts = [sizes[name] for name in ("original_size", "crop", "target_size")]
        time_ids = torch.cat(parts, dim=1).to(self.device, torch.float32)
        return {**super().conditions(text), "time_ids": time_ids}

    def example_text(self, batch: int) -> dict[str, Tensor]:
        config = self.denoiser.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return {
            **super().example_text(batch),
            "pooled_prompt_embeds": self._random(batch, pooled),
        }
