"""Stable Diffusion 1.x and 2.x (epsilon- and v-prediction), and Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn

from tglo.files import reading
from tglo.models.autoencoder import LatentCodec
from tglo.models.families.base import Family
from tglo.models.families.model import Denoiser, Tensors
from tglo.models.families.several_encoders import SeveralEncoders
from tglo.models.folder import REMEDY, read_config, understood
from tglo.models.skeleton import Skeleton
from tglo.models.text import TextPart, tokenize_in_chunks

_SD = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
# The published unet/config.json of each model, as far as it differs from diffusers' defaults.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sd15": {**_SD, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        **_SD,
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        **_SD,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_TOKENS = 77


class StableDiffusion(Family):
    """UNet conditioned on the last hidden states of one CLIP text encoder."""

    name = "stable-diffusion"
    pipeline_class: ClassVar[Any] = StableDiffusionPipeline
    text_parts: ClassVar[tuple[TextPart, ...]] = (
        TextPart(
            "tokenizer", "text_encoder", model_type="clip_text_model", classes=("CLIPTextModel",)
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {"cross_attention_dim": {"text_encoder": 1}}
    flow_matching: ClassVar[bool | None] = False
    chunks_prompts: ClassVar[bool] = True
    published: ClassVar[tuple[str, ...]] = ("sd15", "sd21")
    unused_parts: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensors:
        """Return prompt_embeds (B, 77 chunks, width), in the text encoder's dtype; see `_chunks`."""
        ids, mask = self._chunks(prompts, 0)
        encoder = self.text_encoders[0]
        uses_mask = getattr(encoder.config, "use_attention_mask", False)
        output = encoder(ids, attention_mask=mask if uses_mask else None)
        return {"prompt_embeds": self._joined(output[0].to(encoder.dtype))}

    def text_settings(self) -> dict[str, str]:
        """Return the number of chunks, where it is not that of all caches made before there was a choice."""
        return {"prompt_chunks": str(self.prompt_chunks)} if self.prompt_chunks > 1 else {}

    def _chunks(self, prompts: Sequence[str], number: int) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask (B chunks, 77) for the text encoder with that number.

        Prompts beyond the chunks are cut, and counted in `prompts`.
        """
        if self.prompt_chunks == 1:
            return self._tokens(prompts, number)
        self.need_encoders()
        tally = self.prompts if number == 0 else None
        ids, mask = tokenize_in_chunks(
            self.text_parts[number], self.tokenizers[number], prompts, self.prompt_chunks, tally
        )
        return ids.to(self.device), mask.to(self.device)

    def _joined(self, hidden: Tensor) -> Tensor:
        """Put the chunks (B chunks, 77, width) of each prompt one after another, (B, 77 chunks, width)."""
        return hidden.reshape(-1, self.prompt_chunks * hidden.shape[1], hidden.shape[2])

    def conditions(self, text: Tensors, sizes: Tensors | None = None) -> Tensors:
        """Return prompt_embeds; the sizes have no part in it."""
        return {name: tensor.to(self.device) for name, tensor in text.items()}

    def call(
        self, denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, conditions: Tensors
    ) -> Tensor:
        """See Family.call; latents and embeddings are converted to the denoiser's dtype."""
        dtype = self.dtype_of(denoiser)
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

    def example_text(self, batch: int) -> Tensors:
        width = self.denoiser.config.cross_attention_dim
        return {"prompt_embeds": self._random(batch, _TOKENS * self.prompt_chunks, width)}

    @property
    def patch(self) -> int:
        """The latents that become one at the lowest level: then no level pads."""
        return _lowest(self.denoiser.config)

    @property
    def size_step(self) -> int:
        """One latent: these UNets pad on the way down and cut on the way up."""
        return self.spatial_scale

    @classmethod
    def skeleton(cls, model: str) -> Skeleton | None:
        """Return a UNet by one of the names in `published`, or that of a folder with unet and vae."""
        if model in cls.published:
            return UNetSkeleton(ARCHITECTURES[model], 8, cls.lora_targets)
        folder = Path(model.removeprefix("path:")).expanduser()
        unet, vae = (folder / part / "config.json" for part in ("unet", "vae"))
        if not unet.is_file() or not vae.is_file():
            return None
        with understood(vae, "VAE configuration"):
            scale = cls.codec_class(read_config(vae)).spatial_scale
        with understood(unet, "UNet configuration"):
            found = UNetSkeleton(read_config(unet), scale, cls.lora_targets, str(unet))
            return found if found.default_size and found.size_step else None


class StableDiffusionXL(SeveralEncoders, StableDiffusion):
    """UNet conditioned on two CLIP text encoders, a pooled embedding and the image's sizes."""

    name = "stable-diffusion-xl"
    pipeline_class = StableDiffusionXLPipeline
    text_parts = (
        TextPart(
            "tokenizer", "text_encoder", model_type="clip_text_model", classes=("CLIPTextModel",)
        ),
        TextPart(
            *("tokenizer_2", "text_encoder_2"),
            model_type="clip_text_model",
            classes=("CLIPTextModelWithProjection",),
        ),
    )
    text_widths: ClassVar[dict[str, dict[str, int]]] = {
        "cross_attention_dim": {"text_encoder": 1, "text_encoder_2": 1}
    }
    published = ("sdxl",)
    unused_parts: ClassVar[dict[str, Any]] = {"feature_extractor": None, "image_encoder": None}

    @torch.no_grad()
    def encode_with(self, number: int, prompts: Sequence[str]) -> Tensors:
        """Return an encoder's last hidden states but one; of the second also its projection of the first chunk."""
        ids, _ = self._chunks(prompts, number)
        output = self.text_encoders[number](ids, output_hidden_states=True)
        pooled = {"pooled": output[0][:: self.prompt_chunks]} if number else {}
        return {"hidden": self._joined(output.hidden_states[-2]), **pooled}

    def combine(self, parts: Sequence[Tensors]) -> Tensors:
        """Return prompt_embeds (B, 77 chunks, both widths) and pooled_prompt_embeds (B, width of the second)."""
        hidden = torch.cat([part["hidden"] for part in parts], dim=-1)
        return {"prompt_embeds": hidden, "pooled_prompt_embeds": parts[1]["pooled"]}

    def unconditional(self, empty: Tensors | None = None) -> Tensors:
        """Return zeros where the folder asks for them (as SDXL's own does), else the empty prompt's."""
        empty = super().unconditional(empty)
        if self.pipeline_config.get("force_zeros_for_empty_prompt", True):
            return {name: torch.zeros_like(tensor) for name, tensor in empty.items()}
        return empty

    def conditions(self, text: Tensors, sizes: Tensors | None = None) -> Tensors:
        """Return the embeddings and time_ids (B, 6) float32: original size, crop, target size."""
        if sizes is None:
            raise ValueError("SDXL needs sizes: original_size, crop and target_size, each (B, 2)")
        parts = [sizes[name] for name in ("original_size", "crop", "target_size")]
        time_ids = torch.cat(parts, dim=1).to(self.device, torch.float32)
        return {**super().conditions(text), "time_ids": time_ids}

    def example_text(self, batch: int) -> Tensors:
        pooled = self._random(batch, _pooled_width(self.denoiser.config))
        return {**super().example_text(batch), "pooled_prompt_embeds": pooled}


class UNetSkeleton(Skeleton):
    """The UNet of Stable Diffusion 1.x, 2.x and XL without weights."""

    @property
    def default_size(self) -> tuple[int, int]:
        side = int(self.config["sample_size"]) * self.spatial_scale
        return side, side

    @property
    def size_step(self) -> int:
        return self.spatial_scale * _lowest(self.config)

    def latent_shape(self, height: int, width: int, frames: int | None = None) -> tuple[int, ...]:
        return self._codec().shape(height, width)

    def make(self) -> nn.Module:
        with reading(self.source, "UNet configuration", REMEDY):
            return UNet2DConditionModel.from_config(self.config)

    def text_shapes(self) -> dict[str, tuple[int | None, ...]]:
        config = SimpleNamespace(**self.config)
        shapes: dict[str, tuple[int | None, ...]] = {
            "prompt_embeds": (_TOKENS * self.prompt_chunks, config.cross_attention_dim)
        }
        if self.config.get("addition_embed_type") == "text_time":
            shapes["pooled_prompt_embeds"] = (_pooled_width(config),)
        return shapes

    def stored_bytes(self, height: int, width: int, frames: int | None = None) -> int:
        return self._codec().stored_bytes(height, width)

    def inputs(
        self, denoiser: Any, batch: int, height: int, width: int, frames: int | None = None
    ) -> dict[str, Any]:
        config = denoiser.config
        dtype = next(denoiser.parameters()).dtype

        def empty(*shape: int) -> Tensor:
            return torch.empty(batch, *shape, device="meta", dtype=dtype)

        sides = (height // self.spatial_scale, width // self.spatial_scale)
        arguments: dict[str, Any] = {
            "sample": empty(config.in_channels, *sides),
            "timestep": empty(),
            "encoder_hidden_states": empty(
                _TOKENS * self.prompt_chunks, config.cross_attention_dim
            ),
            "return_dict": False,
        }
        if config.addition_embed_type == "text_time":
            arguments["added_cond_kwargs"] = {
                "text_embeds": empty(_pooled_width(config)),
                "time_ids": empty(6),
            }
        return arguments

    def _codec(self) -> LatentCodec:
        levels = [0] * self.spatial_scale.bit_length()
        config = {"latent_channels": self.config["in_channels"], "block_out_channels": levels}
        return LatentCodec(config)


def _lowest(config: Any) -> int:
    """Return how many latents along a side become one at a UNet's lowest level."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def _pooled_width(config: Any) -> int:
    """Return the width of the pooled embedding that SDXL's UNet takes beside six sizes."""
    return config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
