"""The files that all contenders work on: a model folder, scored images, and the cache made from them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from benchmarks.step.models import SIZES, ModelSize
from tglo.cache import make as caching
from tglo.cache.drawer import DrawRule
from tglo.data.video import Video, write_video
from tglo.settings import ClipOptions, ReferenceOptions

SEED = 0
CAPTION_DROPOUT = 0.0
FRAME_RATE = 16.0
DRAWS = 4
"""Draws of each sample in the reference's cache."""
TEMPERATURE = 0.1
"""Far above the family's default: at that, the rounding of the half-precision errors which
Diffusion-DPO's script takes is many times log 2, and no first loss could be compared.
"""


@dataclass(frozen=True)
class Workplace:
    """Paths and settings; small enough to be sent to a process."""

    folder: Path
    size_name: str
    device_name: str

    @property
    def size(self) -> ModelSize:
        return SIZES[self.size_name]

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_name)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The precision of predictions, as tglo's configuration names it."""
        return "bf16" if self.device.type == "cuda" else "fp32"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def manifest(self) -> Path:
        return self.folder / "scored.csv"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"


def build(workplace: Workplace, samples: int) -> None:
    """Make the model folder, `samples` scored images or videos, their latents and embeddings, and the
    reference's errors.
    """
    size, device = workplace.size, workplace.device
    # Half the bytes to write and to read again and again; loading gives float32 weights.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size.save(workplace.model, device, dtype)
    _write_samples(workplace, samples)
    caching.build(
        str(workplace.model),
        workplace.manifest,
        workplace.cache,
        resolution=size.resolution,
        buckets=False,
        batch_size=4,
        device=workplace.device_name,
        dtype=workplace.precision,
        clips=ClipOptions() if size.frames is None else ClipOptions((size.frames,), FRAME_RATE),
    )
    caching.build_reference(
        str(workplace.model),
        workplace.cache,
        workplace.cache / "reference",
        DrawRule(SEED, CAPTION_DROPOUT, draws=DRAWS),
        ReferenceOptions(precision=workplace.precision),
        batch_size=4,
        device=workplace.device_name,
        progress=False,
    )


def _write_samples(workplace: Workplace, samples: int) -> None:
    """Write images or videos of coarse noise, prompts of their own, scores spread evenly over 0 to 1."""
    random = np.random.default_rng(SEED)
    side, frames = workplace.size.resolution, workplace.size.frames
    name = "{}.png" if frames is None else "{}.mp4"
    with workplace.manifest.open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["prompt", "image", "score"])
        for number in range(samples):
            pictures = []
            for _ in range(frames or 1):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
                pictures.append(image)
            file = workplace.folder / name.format(number)
            if frames is None:
                pictures[0].save(file)
            else:
                file.write_bytes(write_video(Video(pictures, FRAME_RATE)))
            score = f"{number / max(samples - 1, 1):.4f}"
            writer.writerow([f"picture number {number} of many", file.name, score])
