"""Encoders of images and prompts inside the training step, as in scripts without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.step.draws import ScoredSamples
from benchmarks.step.workplace import Workplace


class Encoders:
    """The VAE, both text encoders, and all samples as pixels and prompts in host memory.

    Reading and decoding image files is left out: a loader's other processes do it meanwhile.
    """

    def __init__(self, workplace: Workplace, samples: ScoredSamples, dtype: torch.dtype) -> None:
        self.device, self.dtype, folder = workplace.device, dtype, workplace.model
        kinds: dict[str, Any] = {
            "vae": AutoencoderKL,
            "text_encoder": CLIPTextModel,
            "text_encoder_2": CLIPTextModelWithProjection,
        }
        parts = {
            name: kind.from_pretrained(folder / name).to(self.device, dtype).requires_grad_(False)
            for name, kind in kinds.items()
        }
        self.vae = parts["vae"]
        self.text_encoders = [parts["text_encoder"], parts["text_encoder_2"]]
        self.tokenizers = [
            CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")
        ]
        self.prompts = samples.prompts
        self.pixels = [_pixels(path) for path in samples.images]
        if self.device.type == "cuda":
            self.pixels = [pixels.pin_memory() for pixels in self.pixels]

    @torch.no_grad()
    def latents(self, rows: Sequence[int], posterior: Tensor | None = None) -> Tensor:
        """Return scaled latents (B, 4, h, w); posterior: the normal numbers of their sample, if given."""
        pixels = [self.pixels[row].to(self.device, non_blocking=True) for row in rows]
        found = self.vae.encode(torch.stack(pixels).to(self.dtype)).latent_dist
        sample = found.sample() if posterior is None else found.mean + found.std * posterior
        return (sample * self.vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def text(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return both encoders' hidden states (B, 77, width) and the second's projection (B, width)."""
        prompts = [self.prompts[row] for row in rows]
        hidden = []
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenizer(
                prompts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            output = encoder(tokens.input_ids.to(self.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
        return torch.cat(hidden, dim=-1), output[0]


def _pixels(path: Path) -> Tensor:
    """Read an image as (3, H, W) float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(Image.open(path), dtype=np.float32))
    return values.permute(2, 0, 1).div(127.5).sub(1.0)
