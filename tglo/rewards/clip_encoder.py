"""CLIP's two towers, as CLIP score, PickScore, HPSv2 and the aesthetic predictor use them."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from tglo.rewards.preprocessing import pixel_batch, shorter_side_crop

_QUOTES = dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u02bc"), "'")
_QUOTES |= dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"')


class ClipEncoder:
    """A CLIPModel on its device, with its tokenizer if prompts are encoded too."""

    def __init__(
        self, model: Any, tokenizer: Path | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device, dtype)
        self.device, self.dtype = device, dtype
        self.image_size: int = model.config.vision_config.image_size
        self.scale = float(model.logit_scale.detach().float().exp())
        if tokenizer is not None:
            self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)

    @classmethod
    def from_folder(
        cls, folder: Path, tokenizer: Path | None, device: torch.device, dtype: torch.dtype
    ) -> Self:
        """Load the CLIPModel of a transformers folder; only safetensors are read.

        Raises ValueError when its files lack weights, which would otherwise be random numbers.
        """
        loaded: Any = CLIPModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        model, info = loaded
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of a CLIPModel's weights ({', '.join(missing[:3])}); "
                "give a folder with both of its towers"
            )
        return cls(model, tokenizer, device, dtype)

    def prepare(self, images: list[Image.Image]) -> Tensor:
        """Prepare images as openai/CLIP does: (B, 3, S, S), standardised."""
        return pixel_batch(images, lambda image: shorter_side_crop(image, self.image_size))

    def images(self, pixels: Tensor) -> Tensor:
        """Embed standardised pixels (B, 3, S, S): (B, D) float64 of length 1."""
        features = self.model.get_image_features(pixels.to(self.device, self.dtype))
        return _unit(features.pooler_output)

    def texts(self, prompts: list[str]) -> Tensor:
        """Embed prompts: (B, D) float64 of length 1. Prompts longer than the context are cut.

        All are padded to the context, so that a prompt's embedding does not depend on its batch. The
        tower is causal and read at the end token, so padding changes nothing.
        """
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        features = self.model.get_text_features(tokens["input_ids"].to(self.device))
        return _unit(features.pooler_output)

    def cosine(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """Return the cosine similarity (B,) float64 of each image and its prompt."""
        return (self.images(pixels) * self.texts(prompts)).sum(-1)


def clean(prompts: list[str]) -> list[str]:
    """Clean prompts as the tokenizers of openai/CLIP and open_clip do.

    HTML entities are replaced twice and typographic quotes by plain ones. The tokenizers' repair of
    wrongly decoded text (ftfy) is left out.
    """
    return [html.unescape(html.unescape(p.translate(_QUOTES))).strip() for p in prompts]


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.to("cpu", torch.float64), dim=-1)
