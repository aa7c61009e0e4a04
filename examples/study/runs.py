"""One job of the study: train, sample the evaluation's prompt sets, score by everything."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from examples.study import harm
from examples.study.data import BATCH, EVALUATION_SEED, SEED_STRIDE, Pool
from examples.study.plan import FRESH_DRAWS, Job
from examples.study.world import World
from tglo.data.manifest import read_manifest
from tglo.files import read_json, write_json
from tglo.generation.generate import generate_images
from tglo.objectives import OBJECTIVES
from tglo.rewards import score_manifest
from tglo.threshold.frozen import Threshold
from tglo.threshold.ridge import UnexplainedError
from tglo.train import train
from tglo.train.config import ObjectiveConfig
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config, put

Result = dict[str, Any]
Scores = dict[str, dict[str, list[float]]]
RESULT = "result.json"


def result_of(folder: Path, job: Job) -> Result | None:
    """Return what the job gave, if it is done."""
    path = folder / "runs" / job.name / RESULT
    return read_json(path) if path.is_file() else None


def run(folder: Path, job: Job, world: World) -> Result:
    """Train and evaluate a job in a folder of its own; kept, so that it is done once. What tglo refuses to train
    on, since embeddings do not explain the scores, is a result, too.

    The trained weights are removed in the end: a job takes about 10 s to repeat.
    """
    if done := result_of(folder, job):
        return done
    here = folder / "runs" / job.name
    try:
        prefix = _train(Pool.of(folder, job, world), job, here / "train")
    except UnexplainedError as error:
        refused: Result = {"job": job.plain(), "refused": str(error)}
        write_json(here / RESULT, refused)
        shutil.rmtree(here / "train", ignore_errors=True)
        return refused
    export = here / "train" / "export"
    result: Result = {
        "job": job.plain(),
        "means": means(sample(export, here, job.prompts, job.seed, world, prefix)),
    }
    fit = Threshold.load(here / "train" / "threshold.json").fit
    if fit is not None and fit.unexplained is not None:
        result["unexplained"] = fit.unexplained
    if job.prompts == "evaluation":
        result["harm"] = harm.measure(export, here, Pool(folder, job.seed, world), prefix)
    write_json(here / RESULT, result)
    shutil.rmtree(here / "train")
    return result


def _train(pool: Pool, job: Job, output: Path) -> str:
    """Train in `output`; returns what goes before the prompts in sampling."""
    config = parse_config(settings(pool, job, output), job.name)
    check(config)
    if not train(config).finished:
        raise RuntimeError("stopped by a signal; the same command resumes")
    return config.objective.prompt_prefix


def base_name(prompts: str, seed: int) -> str:
    """Name the folder of the base model's samples."""
    return f"base-{prompts}-{seed}"


def base_result(folder: Path, prompts: str, seed: int, world: World) -> Result:
    """Evaluate the base model on a job's prompts and noise, with the deviations of its scores."""
    here = folder / "runs" / base_name(prompts, seed)
    if not (here / RESULT).is_file():
        scores = sample(world.base, here, prompts, seed, world)
        write_json(here / RESULT, {"means": means(scores), "deviations": means(scores, np.std)})
    return read_json(here / RESULT)


def base_harm(pool: Pool) -> dict[str, float]:
    """Measure the base model itself as `harm.measure` does the trained ones."""
    here = pool.folder.parent / "runs" / base_name("harm", pool.seed)
    if not (here / RESULT).is_file():
        write_json(here / RESULT, harm.measure(pool.world.base, here, pool))
    return read_json(here / RESULT)


def means(scores: Scores, statistic: Callable[..., Any] = np.mean) -> dict[str, dict[str, float]]:
    """Map set -> scorer -> the mean (or another statistic) over the prompts."""
    return {
        name: {scorer: float(statistic(values)) for scorer, values in by_scorer.items()}
        for name, by_scorer in scores.items()
    }


def prompt_sets(prompts: str, world: World) -> dict[str, list[str]]:
    """Return prompts by set, of the evaluation or of tuning's validation."""
    names = world.sets if prompts == "evaluation" else ("validation",)
    return {name: world.prompt_set(name, world.size.evaluation) for name in names}


def sample(
    model: Path, output: Path, prompts: str, seed: int, world: World, prefix: str = ""
) -> Scores:
    """Map set -> scorer -> the score of each prompt's image."""
    sets, scorers = prompt_sets(prompts, world), world.scorers()
    manifest = generate_images(
        str(model),
        [prompt for several in sets.values() for prompt in several],
        output / "samples",
        world.sampling,
        prefix=prefix,
        batch_size=BATCH,
        seed=EVALUATION_SEED + seed * SEED_STRIDE,
        progress=False,
    )
    rows = score_manifest(
        read_manifest(manifest, require_scores=False), scorers, 256, progress=False
    ).rows
    found, start = {}, 0
    for name, several in sets.items():
        part = rows[start : start + len(several)]
        found[name] = {scorer: [float(row.extra[scorer]) for row in part] for scorer in scorers}
        start += len(several)
    return found


def settings(pool: Pool, job: Job, output: Path) -> dict[str, Any]:
    """Return the training configuration, as nested plain data."""
    world, size = pool.world, pool.size
    draws, stratified = job.cached_draws(size)
    name = world.methods[job.method].objective
    objective = OBJECTIVES[name]
    # Those that share their draw with others of the prompt have none in the pool's cache.
    keys = {"objective.group": "group", "objective.share_draws": "share_draws"}
    given = {key: job.changes[full] for full, key in keys.items() if full in job.changes}
    shared = ObjectiveConfig(name=name, **given).shared_draws
    cached = objective.needs_reference and not shared and draws != FRESH_DRAWS
    flat = {
        "seed": job.seed,
        "model.path": str(world.base),
        "model.train": "full",
        "data.manifest": str(pool.manifest(job)),
        "data.cache": str(pool.cache),
        "data.caption_dropout": world.caption_dropout,
        "data.draws": draws,
        "objective.name": name,
        "optimizer.steps": size.steps,
        "optimizer.micro_batch": size.batch,
        "optimizer.schedule": "cosine",
        "engine.kind": "plain",
        "output.folder": str(output),
        "output.save_every": size.steps,
        "output.log_every": max(1, size.steps // 4),
        "output.progress": False,
        **world.defaults,
    }
    if job.changes.get("data.baseline", "percentile") != "percentile":
        del flat["data.percentile"]  # other baselines have none
    if draws != FRESH_DRAWS:
        flat["data.stratified"] = stratified
    if cached:
        flat["objective.reference"] = "cached"
        flat["data.reference_cache"] = str(pool.reference(draws, stratified))
    flat |= job.changes
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        put(nested, key, value)
    return nested


def quiet() -> None:
    """Show only warnings of training and of the libraries, and no bars: hundreds of runs follow each other."""
    import diffusers.utils.logging
    import transformers.utils.logging

    logging.getLogger("tglo").setLevel(logging.WARNING)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
