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

from benchmarks.step.draws import ScoredSamples
from benchmarks.step.workplace import Workplace


class Encoders:
    """The VAE, the text encoders, and all samples as pixels and prompts in host memory.

    Reading and decoding image files is left out: a loader's other processes do it meanwhile.
    """

    def __init__(self, workplace: Workplace, samples: ScoredSamples, dtype: torch.dtype) -> None:
        self.device, self.dtype, self.size = workplace.device, dtype, workplace.size
        folder = workplace.model

        def load(kind: Any, name: str) -> Any:
            part = kind.from_pretrained(folder / name, torch_dtype=dtype)
            return part.to(self.device).requires_grad_(False)

        self.vae = load(AutoencoderKL, "vae")
        self.text_encoders = [load(kind, name) for name, kind in self.size.text_classes.items()]
        self.tokenizers = [
            kind.from_pretrained(folder / name)
            for name, kind in self.size.tokenizer_classes.items()
        ]
        self.prompts = samples.prompts
        self.pixels = [_pixels(path) for path in samples.images]
        if self.device.type == "cuda":
            self.pixels = [pixels.pin_memory() for pixels in self.pixels]

    @torch.no_grad()
    def latents(self, rows: Sequence[int], posterior: Tensor | None = None) -> Tensor:
        """Return scaled latents (B, C, h, w); posterior: the normal numbers of their sample, if given."""
        pixels = [self.pixels[row].to(self.device, non_blocking=True) for row in rows]
        found = self.vae.encode(torch.stack(pixels).to(self.dtype)).latent_dist
        sample = found.sample() if posterior is None else found.mean + found.std * posterior
        shift, factor = self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor
        return ((sample - shift) * factor).to(self.dtype)

    @torch.no_grad()
    def text(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return embeddings and pooled embeddings; see ModelSize.embed."""
        prompts = [self.prompts[row] for row in rows]
        tokens = []
        for tokenizer in self.tokenizers:
            found = tokenizer(
                prompts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            tokens.append(found.input_ids.to(self.device))
        return self.size.embed(tokens, self.text_encoders)


def _pixels(path: Path) -> Tensor:
    """Read an image as (3, H, W) float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(Image.open(path), dtype=np.float32))
    return values.permute(2, 0, 1).div(127.5).sub(1.0)
