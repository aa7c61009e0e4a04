"""The study's data: for each seed a pool of scored images of the base model, encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from examples.study import made
from examples.study.plan import DEFAULTS, FRESH_DRAWS, OTHER_REWARDS, REWARDS, Job, Size
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

    @classmethod
    def of(cls, folder: Path, job: Job, size: Size) -> Pool:
        """Return the pool of a job: another where it takes more images of a prompt than the study's has."""
        pool = cls(folder, job.seed, size)
        if job.each is not None and job.each > size.images:
            fewer = size.prompts * size.images // job.each
            pool.size = replace(size, prompts=fewer, images=job.each)
            pool.folder = folder / f"seed-{job.seed}-of-{job.each}"
        return pool

    @property
    def cache(self) -> Path:
        """Latents, and embeddings of the prompts with and without CSFT's markers."""
        return self.folder / "cache"

    def reference(self, draws: int, stratified: bool) -> Path:
        """Return the folder of the base model's errors for `draws` draws of every image."""
        plain = "" if stratified or draws < 2 else "-plain"
        return self.folder / f"reference-{draws}{plain}"

    def path(self, job: Job) -> Path:
        """Return where a job's scored images are listed."""
        count, each = job.used or self.size.used, job.each or self.size.images
        fewer = "" if each == self.size.images else f"-{each}"
        return self.folder / "data" / f"{_column(job)}-{count}{fewer}.csv"

    def manifest(self, job: Job) -> Path:
        """Return the scored images that a job trains on: the first of each of the first prompts."""
        path, name = self.path(job), _column(job)
        count, each = job.used or self.size.used, job.each or self.size.images
        if path.is_file():
            return path
        rows = read_manifest(self.folder / "data" / "scored.csv")
        room = dict.fromkeys(scenes.prompt_set("train", self.size.prompts)[: count // each], each)
        kept = []
        for i, row in enumerate(rows.rows):
            if room.get(row.prompt, 0):
                room[row.prompt] -= 1
                kept.append(i)
        chosen = rows.select(kept)
        if name in OTHER_REWARDS:
            scores = made.scores(name, rows, self.seed)[kept]
        else:
            scores = np.array([float(row.extra[name]) for row in chosen.rows])
        pairs = zip(chosen.rows, scores.tolist(), strict=True)
        scored = [replace(row, score=score) for row, score in pairs]
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
            self.manifest(job)


def _column(job: Job) -> str:
    return job.reward if job.rater_error is None else f"{job.reward}-{job.rater_error:g}"


def rater(error: float) -> Callable[[list[Image.Image], list[str]], rewards.Scores]:
    """Return the simulated person with another error."""

    def stars(images: list[Image.Image], prompts: list[str]) -> rewards.Scores:
        return rewards.rate(images, prompts, error)

    stars.__qualname__ = f"stars with an error of {error:g}"
    return stars
