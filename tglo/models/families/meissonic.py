"""Meissonic (arXiv 2410.08261) from a local folder of the published checkpoints' layout: transformer,
vqvae, text_encoder, tokenizer and scheduler, with a model_index.json or without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AmusedScheduler, VQModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from tglo.models.families.masked import MaskedFamily
from tglo.models.families.model import Tensors
from tglo.models.folder import read_config
from tglo.models.modules.meissonic_transformer import Transformer2DModel
from tglo.models.text import TextPart

_ENCODERS = {"vqvae": VQModel, "text_encoder": CLIPTextModelWithProjection}


def is_folder(path: Path) -> bool:
    """Tell from its transformer's configuration whether a folder holds a Meissonic."""
    file = path / "transformer" / "config.json"
    if not file.is_file():
        return False
    config = read_config(file)
    ours = {"codebook_size", "joint_attention_dim", "axes_dims_rope"} <= config.keys()
    return config.get("_class_name") == "Transformer2DModel" and ours


class Meissonic(MaskedFamily):
    """Multimodal transformer over VQ tokens; its text encoder is CLIP ViT-H's."""

    name = "meissonic"
    pipeline_class: ClassVar[Any] = None
    denoiser_class: ClassVar[Any] = Transformer2DModel
    # A folder need not state the text encoder's 77 places.
    text_parts = (TextPart("tokenizer", "text_encoder", length=77),)

    def arguments(self, pooled: Tensor, timesteps: Tensor) -> Tensors:
        """See MaskedFamily.arguments. The original is trained on 1000 x the share of hidden tokens, before
        that is rounded to a number of tokens, and sampled with the number of the step; this is
        trained on 1000 x the share that is hidden, and sampled as the original.
        """
        return {"pooled_projections": pooled, "timestep": timesteps}

    @property
    def default_size(self) -> tuple[int, int]:
        """1024 pixels with the layers that halve the sides, else 512, as the original has it."""
        return (1024, 1024) if self.denoiser.config.downsample else (512, 512)

    def _load_parts(self, dtype: torch.dtype, encoders: bool) -> dict[str, Any]:
        """Load each part by its class, whatever class the folder names."""
        config = read_config(self.path / "scheduler" / "scheduler_config.json")
        parts: dict[str, Any] = {
            **self._given_parts(dtype, ()),
            "tokenizer": CLIPTokenizer.from_pretrained(
                self.path / "tokenizer", local_files_only=True
            ),
            "scheduler": AmusedScheduler(
                mask_token_id=config["mask_token_id"],
                masking_schedule=config.get("masking_schedule", "cosine"),
            ),
        }
        for name in _ENCODERS:
            parts[name] = self._read_encoder(name, dtype) if encoders else None
        return parts

    def _class_of(self, part: str) -> Any:
        return _ENCODERS[part]

    def _text_widths(self) -> tuple[int, int]:
        config = self.denoiser.config
        return config.joint_attention_dim, config.pooled_projection_dim
