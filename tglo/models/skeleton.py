"""A denoiser without weights (on the meta device), for counting what a step needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tglo.models import lora
from tglo.models.families.base import Family

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
_VAE_SCALE = 8
_TOKENS = 77


def read_architecture(model: str) -> tuple[dict[str, Any], int]:
    """The denoiser's configuration and the pixels per latent's side, of a known name or a folder.

    ValueError if there is neither a known architecture nor a diffusers folder of that name.
    """
    if model in ARCHITECTURES:
        return ARCHITECTURES[model], _VAE_SCALE
    folder = Path(model.removeprefix("path:")).expanduser()
    denoiser, vae = (folder / part / "config.json" for part in ("unet", "vae"))
    if not denoiser.is_file() or not vae.is_file():
        raise ValueError(
            f"model {model!r} is neither one of {', '.join(ARCHITECTURES)} nor a diffusers folder "
            f"with unet/config.json and vae/config.json"
        )
    levels = len(json.loads(vae.read_text())["block_out_channels"])
    return json.loads(denoiser.read_text()), 2 ** (levels - 1)


def build(config: dict[str, Any], dtype: torch.dtype, lora_rank: int | None = None) -> nn.Module:
    """The denoiser in train mode on the meta device; with a rank, frozen and with a LoRA."""
    with torch.device("meta"):
        denoiser: nn.Module = UNet2DConditionModel.from_config(config)
        if lora_rank is not None:
            lora.add(denoiser, lora_rank, lora_rank, Family.lora_targets)
    for parameter in denoiser.parameters():
        parameter.data = parameter.data.to(dtype)
    return denoiser.train()


def inputs(denoiser: Any, batch: int, latent_side: int) -> dict[str, Any]:
    """Keyword arguments of a call of the denoiser, on the meta device and in its dtype."""
    config = denoiser.config
    dtype = next(denoiser.parameters()).dtype

    def empty(*shape: int) -> Tensor:
        return torch.empty(batch, *shape, device="meta", dtype=dtype)

    arguments: dict[str, Any] = {
        "sample": empty(config.in_channels, latent_side, latent_side),
        "timestep": empty(),
        "encoder_hidden_states": empty(_TOKENS, config.cross_attention_dim),
        "return_dict": False,
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        arguments["added_cond_kwargs"] = {"text_embeds": empty(pooled), "time_ids": empty(6)}
    return arguments
