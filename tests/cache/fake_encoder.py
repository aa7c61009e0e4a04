"""A stand-in for a model: averaged pixels as latents, byte counts as embeddings."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from tglo.data.manifest import Manifest, Row, read_manifest, sample_id, write_manifest

PROMPTS = ["a cat", "a dog", "ein Bär"]
SIZES = [(32, 32), (20, 40), (48, 32), (64, 64), (32, 20)]  # (height, width)


class FakeEncoder:
    bucket_step = 8

    def __init__(self, vae: str = "average", dtype: torch.dtype = torch.float32) -> None:
        self.vae, self.dtype = vae, dtype
        self.calls = {"latents": 0, "text": 0}

    def fingerprint(self) -> dict[str, str]:
        return {"family": "fake", "vae": self.vae}

    def latents(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.calls["latents"] += 1
        mean = avg_pool2d(pixels, 4)
        return mean.to(self.dtype), mean.abs().add(0.5).to(self.dtype)

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return dict(zip(("mean", "std"), self.latents(pixels), strict=True))

    def text(self, prompts: list[str]) -> dict[str, Tensor]:
        self.calls["text"] += 1
        counts = [np.bincount(list(p.encode()), minlength=256) for p in prompts]
        pooled = torch.tensor(np.stack(counts), dtype=torch.float32)
        return {"pooled": pooled, "tokens": pooled.reshape(-1, 4, 64).to(torch.bfloat16)}

    def texts(self, batches: Sequence[Sequence[str]]) -> Iterator[dict[str, Tensor]]:
        return (self.text(list(batch)) for batch in batches)


def make_image(number: int) -> Image.Image:
    random = np.random.default_rng(number)
    size = SIZES[number % len(SIZES)]
    return Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))


def make_manifest(folder: Path, count: int = 20) -> Manifest:
    (folder / "images").mkdir()
    rows = []
    for i in range(count):
        name = f"images/{i:03d}.png"
        out = io.BytesIO()
        make_image(i).save(out, "PNG")
        (folder / name).write_bytes(out.getvalue())
        prompt = PROMPTS[i % len(PROMPTS)]
        rows.append(Row(sample_id(prompt, name), prompt, name, i / 7, i + 2))
    write_manifest(folder / "manifest.csv", rows)
    return read_manifest(folder / "manifest.csv")
