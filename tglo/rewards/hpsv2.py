"""HPSv2.1 (arXiv 2306.09341): cosine similarity under a fine-tuned CLIP ViT-H/14.

The published file has the names of open_clip (github.com/mlfoundations/open_clip); `from_open_clip`
maps them to transformers'. Images and prompts are prepared as in github.com/tgxs002/HPSv2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from tglo.rewards.clip import VIT_H, ClipReward, clean
from tglo.rewards.model import build, tower
from tglo.rewards.preprocessing import letterbox, pixel_batch
from tglo.rewards.weights import WEIGHTS, Part, clip_tokenizer, load_state

FILE = "HPS_v2.1_compressed.pt"
# ViT-H/14's in open_clip; they do not follow from any shape.
_IMAGE_HEAD, _TEXT_HEAD = 80, 64  # widths of an attention head


class HPSv2(ClipReward):
    """The HPSv2.1 reward model. antialias: see `tglo.rewards.preprocessing.letterbox`."""

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: Part(((FILE,),), "xswu/HPSv2", single=True),
        "tokenizer": clip_tokenizer(VIT_H),
    }

    def __init__(
        self,
        files: Mapping[str, Path],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        antialias: bool = True,
    ) -> None:
        self.antialias = antialias
        super().__init__(files, device, dtype)
        self.identity += "" if antialias else " aliased"

    def load(self, files: Mapping[str, Path]) -> Any:
        """Load the CLIPModel of a file of open_clip; ValueError for the file of another model."""
        path = files[WEIGHTS]
        state = from_open_clip(load_state(path))
        try:
            config = _config(state)
        except KeyError as error:
            raise ValueError(
                f"{path} has no {error.args[0]!r} in open_clip's names; give the published {FILE}"
            ) from None
        return build(CLIPModel, config, path, state)

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return cosine similarities (B,) in [-1, 1]."""
        fit = partial(letterbox, size=self.image_size, antialias=self.antialias)
        return self.cosine(pixel_batch(images, fit), clean(prompts))


def from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an open_clip ViT CLIP under the names of transformers' CLIPModel.

    Linear layers that open_clip keeps as (in, out) matrices are transposed, and the fused (3 D, D)
    attention input is cut into query, key and value. A name without a counterpart stays.
    """
    mapped: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if name.endswith("_projection.weight"):
            value = value.T
        fused = re.fullmatch(r"(.*\.self_attn)\.in_proj_(weight|bias)", name)
        if fused is None:
            mapped[name] = value
            continue
        for which, third in zip("qkv", value.chunk(3), strict=True):
            mapped[f"{fused[1]}.{which}_proj.{fused[2]}"] = third
    return mapped


# Applied in this order to a name of open_clip.
_NAMES = (
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^text_projection$", "text_projection.weight"),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"(\.layers\.\d+)\.ln_([12])\.", r"\1.layer_norm\2."),
    (r"(\.layers\.\d+)\.attn\.", r"\1.self_attn."),
    (r"(\.layers\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
    (r"(\.layers\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
)


def _config(state: Mapping[str, Tensor]) -> CLIPConfig:
    patches = state["vision_model.embeddings.patch_embedding.weight"]  # (width, 3, P, P)
    positions = state["vision_model.embeddings.position_embedding.weight"]  # (1 + (S / P)^2, width)
    words = state["text_model.embeddings.token_embedding.weight"]  # (vocabulary, width)
    context = state["text_model.embeddings.position_embedding.weight"]  # (77, width)

    return CLIPConfig(
        projection_dim=state["visual_projection.weight"].shape[0],
        vision_config={
            **tower(state, "vision_model.encoder.layers.", patches.shape[0], _IMAGE_HEAD),
            "hidden_act": "gelu",
            "patch_size": patches.shape[2],
            "image_size": patches.shape[2] * round((positions.shape[0] - 1) ** 0.5),
        },
        text_config={
            **tower(state, "text_model.encoder.layers.", words.shape[1], _TEXT_HEAD),
            "hidden_act": "gelu",
            "vocab_size": words.shape[0],
            "max_position_embeddings": context.shape[0],
            "bos_token_id": words.shape[0] - 2,
            "eos_token_id": words.shape[0] - 1,  # the highest, which open_clip looks for
        },
    )
