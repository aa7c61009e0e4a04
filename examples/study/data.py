"""The study's data: for each seed a pool of scored images of the base model, encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from examples.study.plan import DEFAULTS, FRESH_DRAWS, REWARDS, Job, Size
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build, build_reference
from tglo.data.manifest import read_manifest, write_manifest
from tglo.generation.generate import generate_images
from tglo.rewards import score_manifest
from tglo.shapes import BASE, drawing, rewards, scenes

CAPTION_DROPOUT = 0.1
SEED_STRIDE = 1_000_000
EVALUATION_SEED = 1_000_000_000  # another than every training seed
BATCH = 64


class Pool:
    """The images of one seed, `seed-N/` in the study's folder, and what training needs of them."""

    def __init__(self, folder: Path, seed: int, size: Size) -> None:
        self.folder, self.seed, self.size = folder / f"seed-{seed}", seed, size

    @property
    def cache(self) -> Path:
        """Latents, and embeddings of the prompts with and without CSFT's markers."""
        return self.folder / "cache"

    def reference(self, draws: int, stratified: bool) -> Path:
        """Return the folder of the base model's errors for `draws` draws of every image."""
        plain = "" if stratified or draws < 2 else "-plain"
        return self.folder / f"reference-{draws}{plain}"

    def manifest(self, reward: str, error: float | None, used: int | None) -> Path:
        """Return the scored images that a job trains on: those of the first prompts, all of each."""
        name = reward if error is None else f"{reward}-{error:g}"
        count = used or self.size.used
        path = self.folder / "data" / f"{name}-{count}.csv"
        if path.is_file():
            return path
        rows = read_manifest(self.folder / "data" / "scored.csv")
        kept = set(scenes.prompt_set("train", self.size.prompts)[: count // self.size.images])
        chosen = rows.select([i for i, row in enumerate(rows.rows) if row.prompt in kept])
        scored = [replace(row, score=float(row.extra[name])) for row in chosen.rows]
        write_manifest(path, chosen.with_rows(scored))
        return path

    def make(self, jobs: list[Job]) -> None:
        """Make everything that these jobs need; what is there is kept."""
        prompts = scenes.prompt_set("train", self.size.prompts)
        made = generate_images(
            str(BASE),
            prompts,
            self.folder / "data",
            self.size.sampling,
            count=self.size.images,
            batch_size=BATCH,
            seed=self.seed * SEED_STRIDE,
        )
        scored = made.with_name("scored.csv")
        scorers = {name: getattr(rewards, name) for name in REWARDS}
        for error in sorted({job.rater_error for job in jobs if job.rater_error is not None}):
            scorers[f"stars-{error:g}"] = rater(error)
        rows = read_manifest(made, require_scores=False)
        write_manifest(scored, score_manifest(rows, scorers, 256))
        build(
            str(BASE),
            scored,
            self.cache,
            resolution=drawing.SIZE,
            batch_size=BATCH,
            markers=(DEFAULTS["objective.csft.good_marker"], DEFAULTS["objective.csft.bad_marker"]),
        )
        for draws, stratified in sorted({job.cached_draws(self.size) for job in jobs}):
            if draws != FRESH_DRAWS:
                build_reference(
                    str(BASE),
                    self.cache,
                    self.reference(draws, stratified),
                    DrawRule(self.seed, CAPTION_DROPOUT, draws, stratified),
                    batch_size=BATCH,
                )
        for job in jobs:
            self.manifest(job.reward, job.rater_error, job.used)


def rater(error: float) -> Callable[[list[Image.Image], list[str]], rewards.Scores]:
    """Return the simulated person with another error."""

    def stars(images: list[Image.Image], prompts: list[str]) -> rewards.Scores:
        return rewards.rate(images, prompts, error)

    stars.__qualname__ = f"stars with an error of {error:g}"
    return stars
