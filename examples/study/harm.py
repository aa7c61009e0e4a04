"""What a training costs besides the judge's accuracy: how badly the model now denoises the base model's own
samples, and how much the images of one prompt still differ.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from examples.study.data import BATCH, EVALUATION_SEED, SEED_STRIDE, Pool
from tglo import models
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.latents import LatentCache
from tglo.data.images import decode_image
from tglo.data.manifest import read_manifest
from tglo.evaluate.diversity import features, mean_distance
from tglo.generation.generate import generate_images
from tglo.losses.tgo import prediction_error

PROMPTS, IMAGES = 8, 4  # whose difference is looked at


def measure(model: Path, output: Path, pool: Pool, prefix: str = "") -> dict[str, float]:
    """Return error and diversity of a model; those of the base are what they are compared with."""
    return {"error": error(model, pool), "diversity": diversity(model, output, pool, prefix)}


@torch.no_grad()
def error(model: Path, pool: Pool) -> float:
    """Return the mean squared error on samples of the base that only runs on all of its pool train on, with the
    same timesteps and noise for every model.
    """
    cache, draws = LatentCache(pool.cache), pool.size.draws
    ids = held_out(pool)
    family = models.load(model, encoders=False)
    family.denoiser.eval()
    rule = DrawRule(pool.seed, 0.0, draws, stratified=draws > 1)
    drawer, found = Drawer(rule, cache, family, torch.float32), []
    for draw in range(draws):
        for start in range(0, len(ids), BATCH):
            drawn = drawer.draw(drawer.read(ids[start : start + BATCH], draw))
            answer = family.predict(family.denoiser, drawn)
            found.append(prediction_error(answer, drawn.target))
    return float(torch.cat(found).mean())


def held_out(pool: Pool) -> list[str]:
    """Return the ids of images of the pool that the usual runs do not train on: those of the last eighth of the
    prompts, or the last ones of each prompt where a run takes fewer than there are.
    """
    rows = read_manifest(pool.folder / "data" / "scored.csv", require_scores=False)
    if pool.size.each is None:
        last = set(pool.prompts[-max(1, pool.size.prompts // 8) :])
        return [row.sample_id for row in rows if row.prompt in last]
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        seen[row.prompt] += 1
        if seen[row.prompt] > pool.size.each:
            found.append(row.sample_id)
    return found


def diversity(model: Path, output: Path, pool: Pool, prefix: str = "") -> float:
    """Return the mean distance between the images of one prompt, as `tglo evaluate` measures it."""
    world = pool.world
    made = generate_images(
        str(model),
        world.prompt_set(world.sets[0], max(pool.size.evaluation, PROMPTS))[:PROMPTS],
        output / "several",
        world.sampling,
        prefix=prefix,
        count=IMAGES,
        batch_size=BATCH,
        seed=EVALUATION_SEED + pool.seed * SEED_STRIDE,
        progress=False,
    )
    manifest = read_manifest(made, require_scores=False)
    by_prompt: dict[str, list[np.ndarray]] = {}
    for row in manifest:
        image = decode_image(manifest.open_image(row))
        by_prompt.setdefault(row.prompt, []).append(features(image))
    return float(np.mean([mean_distance(images) for images in by_prompt.values()]))
