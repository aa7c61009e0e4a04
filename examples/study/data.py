"""The study's data: for each seed a pool of scored images of the base model, encoded once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from examples.study import made
from examples.study.plan import FRESH_DRAWS, Job
from examples.study.world import Size, World
from tglo.cache.drawer import DrawRule
from tglo.cache.make import build, build_reference
from tglo.data.manifest import read_manifest, write_manifest
from tglo.generation.generate import generate_images
from tglo.rewards import score_manifest

SEED_STRIDE = 1_000_000
EVALUATION_SEED = 1_000_000_000  # another than every training seed
BATCH = 64


class Pool:
    """The images of one seed, `seed-N/` in the study's folder, and what training needs of them."""

    def __init__(self, folder: Path, seed: int, world: World) -> None:
        self.folder, self.seed, self.world = folder / f"seed-{seed}", seed, world
        self.size: Size = world.size

    @classmethod
    def of(cls, folder: Path, job: Job, world: World) -> Pool:
        """Return the pool of a job: another where it takes more images of a prompt than the study's has."""
        pool, size = cls(folder, job.seed, world), world.size
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

    @property
    def prompts(self) -> list[str]:
        return self.world.prompt_set("train", self.size.prompts)

    def _amounts(self, job: Job) -> tuple[int, int]:
        """Return how many images a job trains on, in all and of each prompt."""
        return job.used or self.size.used, job.each or self.size.usual_each

    def path(self, job: Job) -> Path:
        """Return where a job's scored images are listed."""
        count, each = self._amounts(job)
        fewer = "" if each == self.size.usual_each else f"-{each}"
        return self.folder / "data" / f"{_column(job)}-{count}{fewer}.csv"

    def manifest(self, job: Job) -> Path:
        """Return the scored images that a job trains on: the first of each of the first prompts."""
        path, name = self.path(job), _column(job)
        count, each = self._amounts(job)
        if path.is_file():
            return path
        rows = read_manifest(self.folder / "data" / "scored.csv")
        room = dict.fromkeys(self.prompts[: count // each], each)
        kept = []
        for i, row in enumerate(rows.rows):
            if room.get(row.prompt, 0):
                room[row.prompt] -= 1
                kept.append(i)
        chosen = rows.select(kept)
        if name in self.world.other_rewards:
            scores = made.scores(name, rows, self.seed)[kept]
        else:
            scores = np.array([float(row.extra[name]) for row in chosen.rows])
        pairs = zip(chosen.rows, scores.tolist(), strict=True)
        scored = [replace(row, score=score) for row, score in pairs]
        write_manifest(path, chosen.with_rows(scored))
        return path

    def make(self, jobs: list[Job]) -> None:
        """Make everything that these jobs need; what is there is kept."""
        world = self.world
        made = generate_images(
            str(world.base),
            self.prompts,
            self.folder / "data",
            world.sampling,
            count=self.size.images,
            batch_size=BATCH,
            seed=self.seed * SEED_STRIDE,
            progress=False,
        )
        scored = made.with_name("scored.csv")
        scorers = dict(world.rewards)
        for error in sorted({job.rater_error for job in jobs if job.rater_error is not None}):
            scorers[f"stars-{error:g}"] = world.rater(error)
        rows = read_manifest(made, require_scores=False)
        write_manifest(scored, score_manifest(rows, scorers, 256, progress=False))
        build(
            str(world.base),
            scored,
            self.cache,
            resolution=world.resolution,
            batch_size=BATCH,
            markers=tuple(v for key, v in world.defaults.items() if key.endswith("_marker")),
            progress=False,
        )
        for draws, stratified in sorted({job.cached_draws(self.size) for job in jobs}):
            if draws != FRESH_DRAWS:
                build_reference(
                    str(world.base),
                    self.cache,
                    self.reference(draws, stratified),
                    DrawRule(self.seed, world.caption_dropout, draws, stratified),
                    batch_size=BATCH,
                    progress=False,
                )
        for job in jobs:
            self.manifest(job)


def _column(job: Job) -> str:
    return job.reward if job.rater_error is None else f"{job.reward}-{job.rater_error:g}"
