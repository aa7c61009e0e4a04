"""Builds and pre-trains the demo's masked model: ``python -m tglo.demo.pretrain_masked [--output FOLDER]``.

An AmusedPipeline in miniature on the same digits as `tglo.demo.pretrain`, which here all stay in place:
the fewer different tokens, the better a small transformer foretells them. It is trained with
`tglo.token_error`, the error that TGO compares. About 20 minutes on two CPU cores.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tglo.demo import digits
from tglo.demo.architecture import build_masked_pipeline
from tglo.demo.pretrain import DRAWINGS_PER_DIGIT, draw_pixels, measure
from tglo.demo.settings import MASKED
from tglo.models.autoencoder import TokenCodec
from tglo.pretraining import masked, training


def pretrain(output: Path, *, seed: int, vae_steps: int, steps: int) -> dict[str, Any]:
    """Trains everything, saves the pipeline folder ``output`` and returns what it reached."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    started = time.perf_counter()
    data = digits.load()
    pipeline = build_masked_pipeline()

    def pixels() -> Tensor:
        # Evenly, so that no boldness is a rare one to the codebook.
        pens = generator.uniform(1.0, 6.0, size=32)
        return draw_pixels(data, generator.integers(len(data), size=32), pens)

    reached = masked.train_vq(pipeline.vqvae, pixels, vae_steps)
    rows = np.tile(np.arange(len(data)), DRAWINGS_PER_DIGIT)
    codec = TokenCodec(pipeline.vqvae.config)
    tokens = torch.cat(
        [
            codec.encode(
                pipeline.vqvae,
                draw_pixels(data, part, digits.random_pens(generator, len(part))),
            )["tokens"]
            for part in np.array_split(rows, 300)
        ]
    )

    def captions(picked: NDArray[np.int64]) -> NDArray[np.int64]:
        return data.labels[rows[picked]]

    reached |= masked.train_transformer(
        pipeline, tokens, list(digits.PROMPTS), captions, steps, generator
    )
    training.save(pipeline, output)
    reached |= {"seed": seed, "vae_steps": vae_steps, "steps": steps}
    reached["seconds"] = round(time.perf_counter() - started)
    return reached | measure(output, MASKED)


if __name__ == "__main__":
    training.main(
        "Pre-trains the demo's masked model.", pretrain, MASKED.base, vae_steps=1200, steps=3000
    )
