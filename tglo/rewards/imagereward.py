"""ImageReward (arXiv 2304.05977): BLIP reads the prompt with the image in view, a head scores it.

A ViT-L/16 image encoder, BERT with cross-attention to all image tokens, and a linear head on the
first text token; then the mean and the deviation of the training set are taken out. The published
file has BLIP's names; images and prompts are prepared as by github.com/THUDM/ImageReward.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from tglo.files import read_json
from tglo.rewards.model import RewardModel, build, linear_head, tower
from tglo.rewards.preprocessing import pixel_batch, shorter_side_crop
from tglo.rewards.weights import WEIGHTS, Part, load_state

FILE, CONFIG, HUB = "ImageReward.pt", "med_config.json", "THUDM/ImageReward"
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072  # the raw scores' in training
TOKENS = 35  # longer prompts are cut
_IMAGE_HEAD = 64  # width of an attention head of BLIP's ViT
_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
# The text encoder's published settings that matter, under the names they have here.
_SETTINGS = (
    "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "num_attention_heads", "num_hidden_layers", "vocab_size",
)  # fmt: skip


class ImageReward(RewardModel):
    """The ImageReward v1.0 reward model."""

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: Part(((FILE,),), HUB, single=True),
        "config": Part(((CONFIG,),), HUB, single=True),
        "tokenizer": Part(
            (("vocab.txt",), ("tokenizer.json",)),
            "google-bert/bert-base-uncased",
            also=("tokenizer_config.json",),
        ),
    }

    def read(self, files: Mapping[str, Path]) -> None:
        path = files[WEIGHTS]
        state = load_state(path)
        vision = from_blip(state)
        text = {k.removeprefix(_TEXT): v for k, v in state.items() if k.startswith(_TEXT)}
        text.pop("embeddings.position_ids", None)  # a buffer of old versions: 0, 1, 2, ...
        try:
            vision_config = _vision_config(vision)
        except KeyError as error:
            raise ValueError(
                f"{path} has no {_VISION}* weights in BLIP's names ({error.args[0]} is missing); "
                f"give the published {FILE}"
            ) from None
        text_config = BlipTextConfig(
            **_settings(files["config"]),
            encoder_hidden_size=vision_config.hidden_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            is_decoder=True,  # builds the cross-attention; the call says that it is not a decoder
        )
        place = (self.device, self.dtype)
        self.vision = build(BlipVisionModel, vision_config, path, vision).to(*place)
        network = build(BlipTextModel, text_config, path, text, add_pooling_layer=False)
        self.text = network.to(*place)
        self.head = linear_head(path, state, text_config.hidden_size, _HEAD)
        self.tokenizer = BertTokenizer.from_pretrained(files["tokenizer"], local_files_only=True)

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return scores (B,), of mean 0 and deviation 1 on the images ImageReward was trained on."""
        size = self.vision.config.image_size
        pixels = pixel_batch(images, lambda image: shorter_side_crop(image, size))
        seen = self.vision(pixels.to(self.device, self.dtype)).last_hidden_state  # (B, 1 + N, D)
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.device)
        read = self.text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state  # (B, 35, width)
        raw = self.head(read[:, 0].to("cpu", torch.float32))[:, 0]
        return (raw.double() - MEAN) / DEVIATION


def from_blip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of BLIP's image encoder under the names of transformers' BlipVisionModel.

    The text encoder's names are the same in both, after their prefix.
    """
    mapped = {}
    for name, value in state.items():
        if name.startswith(_VISION):
            name = name.removeprefix(_VISION)
            for pattern, replacement in _NAMES:
                name = re.sub(pattern, replacement, name)
            mapped[name] = value
    return mapped


_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


def _vision_config(state: Mapping[str, Tensor]) -> BlipVisionConfig:
    patches = state["embeddings.patch_embedding.weight"]  # (width, 3, P, P)
    side = round((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    return BlipVisionConfig(
        **tower(state, "encoder.layers.", patches.shape[0], _IMAGE_HEAD),
        patch_size=patches.shape[2],
        image_size=patches.shape[2] * side,
        layer_norm_eps=1e-6,
    )


def _settings(path: Path) -> dict[str, Any]:
    content = read_json(path)
    missing = [key for key in _SETTINGS if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; give the published {CONFIG}")
    return {key: content[key] for key in _SETTINGS}
