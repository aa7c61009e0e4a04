"""What a trained model is worth: fresh samples of it, scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tglo.data.manifest import read_manifest
from tglo.generation.generate import generate_images
from tglo.rewards.scoring import score_file


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled; the same prompts and seeds for every model."""

    prompts: Path
    """Text file, one prompt per line."""
    scorer: str
    """Built-in scorer, or module:function."""
    count: int = 4
    """Images per prompt."""
    steps: int = 30
    guidance: float = 5.0
    batch_size: int = 4
    seed: int = 1_000_000_000
    """Of the samples; another than that of the training images."""
    device: str = "auto"
    dtype: str = "fp32"
    choice_temperature: float | None = None
    """Of masked models; see tglo.models.sampling.generate."""


@dataclass(frozen=True)
class Scores:
    """Mean and standard deviation of the samples' scores."""

    mean: float
    deviation: float
    count: int

    @property
    def error(self) -> float:
        """Standard error of the mean, as if the samples were independent."""
        return self.deviation / math.sqrt(self.count)


def sample_scores(
    model: str, sampling: Sampling, output: Path, *, lora: Path | None = None, prefix: str = ""
) -> Scores:
    """Sample a model (with a LoRA, if any) into `output` and score it; goes on where it was.

    prefix: what the model, but not the scorer, is given before each prompt.
    """
    manifest = generate_images(
        model,
        sampling.prompts,
        output,
        count=sampling.count,
        lora=lora,
        prefix=prefix,
        steps=sampling.steps,
        guidance=sampling.guidance,
        choice_temperature=sampling.choice_temperature,
        batch_size=sampling.batch_size,
        seed=sampling.seed,
        device=sampling.device,
        dtype=sampling.dtype,
    )
    scored = score_file(manifest, sampling.scorer, output / "scored.csv", 256)
    scores = read_manifest(scored).scores()
    deviation = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
    return Scores(float(np.mean(scores)), deviation, len(scores))
