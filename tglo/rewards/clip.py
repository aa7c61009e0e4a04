"""The rewards that read a CLIPModel folder of transformers: CLIP score, PickScore, LAION aesthetic."""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import ftfy
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from tglo.rewards.model import RewardModel, linear_head
from tglo.rewards.preprocessing import pixel_batch, shorter_side_crop
from tglo.rewards.weights import WEIGHTS, Part, clip_model, clip_tokenizer, load_state

VIT_L = "openai/clip-vit-large-patch14"
VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # the base of PickScore and HPSv2


class ClipReward(RewardModel):
    """A reward of a CLIPModel, with its tokenizer (part "tokenizer") if prompts are encoded too."""

    def read(self, files: Mapping[str, Path]) -> None:
        model = self.load(files).eval().requires_grad_(False)
        self.clip = model.to(self.device, self.dtype)
        self.image_size = model.config.vision_config.image_size
        if "tokenizer" in files:
            self.tokenizer = CLIPTokenizer.from_pretrained(
                files["tokenizer"], local_files_only=True
            )

    def load(self, files: Mapping[str, Path]) -> Any:
        """Load the CLIPModel of a transformers folder; only safetensors are read.

        Raises ValueError when its files lack weights, which would otherwise be random numbers.
        """
        folder = files.get("clip", files[WEIGHTS])
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
        return model

    def prepare(self, images: list[Image.Image]) -> Tensor:
        """Prepare images as openai/CLIP does: (B, 3, S, S), standardised."""
        return pixel_batch(images, functools.partial(shorter_side_crop, size=self.image_size))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Embed standardised pixels (B, 3, S, S): (B, D) float64 of length 1."""
        features = self.clip.get_image_features(pixels.to(self.device, self.dtype))
        return _unit(features.pooler_output)

    def embed_texts(self, prompts: list[str]) -> Tensor:
        """Embed prompts: (B, D) float64 of length 1. Prompts longer than the context are cut.

        All are padded to the context, so that a prompt's embedding does not depend on its batch. The
        tower is causal and read at the end token, so padding changes nothing.
        """
        length = self.clip.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        features = self.clip.get_text_features(tokens["input_ids"].to(self.device))
        return _unit(features.pooler_output)

    def cosine(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """Return the cosine similarity (B,) float64 of each image and its prompt."""
        return (self.embed_images(pixels) * self.embed_texts(prompts)).sum(-1)


class ClipScore(ClipReward):
    """100 times the cosine similarity of image and prompt, under any CLIPModel.

    Unlike in the paper that named it (arXiv 2104.08718), it is neither cut off at 0 nor multiplied by
    2.5. Images and prompts are prepared as in github.com/openai/CLIP.
    """

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: clip_model(VIT_L),
        "tokenizer": clip_tokenizer(VIT_L),
    }

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return CLIP scores (B,) in [-100, 100]."""
        return 100 * self.cosine(self.prepare(images), clean(prompts))


class PickScore(ClipReward):
    """PickScore v1 (arXiv 2305.01569): cosine similarity times the model's own logit scale.

    Images and prompts are prepared by transformers' CLIP processor, as in its model card.
    """

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: clip_model("yuvalkirstain/PickScore_v1"),
        "tokenizer": clip_tokenizer(VIT_H),
    }

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return logits (B,): the difference of two images' scores is their log-odds of preference."""
        crop = functools.partial(shorter_side_crop, size=self.image_size, centre="down")
        scale = float(self.clip.logit_scale.float().exp())
        return scale * self.cosine(pixel_batch(images, crop), prompts)


class Aesthetic(ClipReward):
    """LAION aesthetic predictor: people's rating of an image from 1 to 10; the prompt is ignored.

    A linear head (part "weights", which is not on the hub) on the normalised image embedding of a
    CLIPModel (part "clip"), trained on the ratings of SAC, LAION-Logos and AVA
    (github.com/christophschuhmann/improved-aesthetic-predictor).
    """

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: Part(
            (("sac+logos+ava1-l14-linearMSE.pth",),),
            None,
            page="https://github.com/christophschuhmann/improved-aesthetic-predictor",
            single=True,
        ),
        "clip": clip_model(VIT_L),
    }

    def read(self, files: Mapping[str, Path]) -> None:
        super().read(files)
        path, width = files[WEIGHTS], self.clip.config.projection_dim
        self.head = linear_head(path, load_state(path), width, "layers.")

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return ratings (B,), mostly between 1 and 10, though nothing bounds them."""
        return self.head(self.embed_images(self.prepare(images)).float())[:, 0]


def clean(prompts: list[str]) -> list[str]:
    """Clean prompts as the tokenizers of openai/CLIP and open_clip do: ftfy repairs wrongly decoded text,
    plain characters take the place of typographic quotes, ligatures, fullwidth forms and control
    characters, HTML entities are replaced twice, and white space is one blank.
    """
    plain = (html.unescape(html.unescape(ftfy.fix_text(prompt))) for prompt in prompts)
    return [" ".join(text.split()) for text in plain]


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.to("cpu", torch.float64), dim=-1)
