"""Encoders of images and prompts inside the training step, as in scripts without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.step.draws import ScoredSamples
from benchmarks.step.workplace import FRAME_RATE, Workplace
from tglo.data.video import Clip, read_clip


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

        self.vae = load(self.size.vae_class, "vae")
        self.text_encoders = [load(kind, name) for name, kind in self.size.text_classes.items()]
        self.tokenizers = [
            kind.from_pretrained(folder / name)
            for name, kind in self.size.tokenizer_classes.items()
        ]
        self.prompts = samples.prompts
        self.pixels = [_pixels(path, self.size.frames) for path in samples.images]
        if self.device.type == "cuda":
            self.pixels = [pixels.pin_memory() for pixels in self.pixels]

    @torch.no_grad()
    def latents(self, rows: Sequence[int], posterior: Tensor | None = None) -> Tensor:
        """Return scaled latents (B, C, ..., h, w); posterior: the normal numbers of their sample, if given."""
        pixels = [self.pixels[row].to(self.device, non_blocking=True) for row in rows]
        found = self.vae.encode(torch.stack(pixels).to(self.dtype)).latent_dist
        sample = found.sample() if posterior is None else found.mean + found.std * posterior
        return self.size.scaled(self.vae, sample).to(self.dtype)

    @torch.no_grad()
    def text(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """Return embeddings; see ModelSize.embed."""
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


def _pixels(path: Path, frames: int | None) -> Tensor:
    """Read an image as (3, H, W), or a video as (3, F, H, W), float32 in [-1, 1]."""
    if frames is None:
        values = torch.from_numpy(np.array(Image.open(path), dtype=np.float32))
        return values.permute(2, 0, 1).div(127.5).sub(1.0)
    with path.open("rb") as file:
        video = read_clip(file, Clip(frames, FRAME_RATE))
    values = torch.from_numpy(np.stack([np.array(frame, np.float32) for frame in video.frames]))
    return values.permute(3, 0, 1, 2).div(127.5).sub(1.0)
