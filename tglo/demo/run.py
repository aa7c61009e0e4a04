"""`tglo demo`: a real problem on the path that a user's own model would take, in about three
minutes on two cores.

Samples of the base model are scored, split by a threshold, cached and trained on, once with TGO and
once with SFT for the same number of steps. Fresh samples of base, SFT and TGO are then compared
under the same prompts and seeds.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tglo.cache.make import build
from tglo.columns import aligned
from tglo.data.images import decode_image
from tglo.data.manifest import read_manifest
from tglo.demo import classifier, digits, figures, report, scorer, settings
from tglo.demo.report import Outcome
from tglo.demo.settings import BATCH, EVALUATION_SEED, MODELS, QUICK, SCORER, SEED_STRIDE, Demo
from tglo.files import claim_folder
from tglo.generation.generate import generate_images
from tglo.rewards.scoring import score_file
from tglo.shapes.weights import shipped
from tglo.threshold.frozen import estimate
from tglo.threshold.summary import Summary, describe
from tglo.train import load_config, train
from tglo.train.recipes import RECIPES

log = logging.getLogger("tglo")

OBJECTIVES = {"SFT": "sft", "TGO": "tgo"}


def run(
    output: Path,
    *,
    model: str = "diffusion",
    recipe: str = "published",
    seed: int = 0,
    quick: bool = False,
) -> dict[str, Any]:
    """Run the demo in ``output``; returns what report.json holds: a row of numbers for each model, and
    seconds.

    ``model`` is one of `settings.MODELS`, ``recipe`` one of `tglo.train.recipes.RECIPES`.
    ``seed`` changes the training set, both trainings and the evaluation. ``quick`` takes a few steps of
    everything, to see that all works; its numbers mean nothing. Finished images and steps of an
    interrupted run are kept, so the same call resumes.
    Raises ValueError for another model or recipe, and if ``output`` holds a demo with another model, seed or
    size.
    FileNotFoundError where the base models were left out of the installation.
    """
    if not 0 <= seed < 1000:
        raise ValueError(
            f"the demo's seed must be from 0 to 999, got {seed}: every seed has images of its own"
        )
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; the demo has {', '.join(MODELS)}")
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; there are {', '.join(RECIPES)}")
    chosen = MODELS[model]
    shipped(chosen.base)
    output = output.resolve()
    demo = Demo(output, chosen, seed, QUICK if quick else chosen.amounts, recipe)
    # Images made for other settings must not be taken for ours.
    held = {"model": model, "recipe": recipe, "seed": seed, **asdict(demo.amounts)}
    claim_folder(output / "demo.json", held, alone=True)
    watch = Stopwatch()

    with watch.part("generate"):
        manifest = _generate(
            demo, chosen.base, output / "data", demo.amounts.training_images, seed * SEED_STRIDE
        )
    with watch.part("score"):
        scores, threshold, summary = _score(demo, manifest)
    print(summary)
    with watch.part("cache"):
        build(
            str(chosen.base),
            output / "data" / "scored.csv",
            output / "cache",
            resolution=digits.SIZE,
            batch_size=BATCH,
        )
    models = {"base": chosen.base}
    metrics = {}
    for name, objective in OBJECTIVES.items():
        with watch.part(f"train {name}"):
            models[name], metrics[name] = _train(demo, objective)
    outcomes = []
    for name, folder in models.items():
        with watch.part("evaluate"):
            outcomes.append(_evaluate(demo, name, folder))
    with watch.part("report"):
        columns = np.arange(20) % len(outcomes[0].images)
        pictures = {
            "samples.png": figures.sample_grid(outcomes, columns),
            "scores.png": figures.score_histograms(scores, threshold, outcomes),
            "training.png": figures.training_curves(metrics),
        }
        page = report.write_report(
            output / "report",
            outcomes,
            pictures,
            figures.gallery(outcomes, columns),
            title=chosen.title,
            facts=settings.facts(demo),
            commands=settings.commands(demo),
        )
    rows = {outcome.name: outcome.row(outcomes[0]) for outcome in outcomes}
    result = {
        "model": model,
        "recipe": recipe,
        "seed": seed,
        "quick": quick,
        "models": rows,
        "seconds": watch.seconds,
        "report": str(page),
    }
    (output / "report" / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    table = report.table(outcomes)
    lines = [[str(cell) for cell in row] for row in table.rows]
    print(f"\n{aligned([table.header, *lines])}\n")
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in watch.seconds.items())
    print(f"seconds: {parts}; together {sum(watch.seconds.values()):.0f}")
    print(f"report: {page}")
    return result


class Stopwatch:
    """Seconds by named part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        log.info("demo: %s", name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 1)


def _generate(demo: Demo, weights: Path, folder: Path, count: int, first_seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(digits.PROMPTS) + "\n")
    return generate_images(
        str(weights),
        prompts,
        folder,
        demo.model.sampling(demo.amounts.sampling_steps),
        count=count,
        batch_size=BATCH,
        seed=first_seed,
        device="cpu",
    )


def _score(demo: Demo, manifest: Path) -> tuple[np.ndarray, np.ndarray, Summary]:
    """Write data/scored.csv and threshold.json; returns scores (N,), each one's threshold (N,), and a summary
    of labels and weights.
    """
    scored = read_manifest(score_file(manifest, SCORER, manifest.with_name("scored.csv"), 250))
    scores, prompts = scored.scores(), scored.prompts()
    by_prompt = prompts if demo.baseline != "percentile" else None
    threshold = estimate(scores, prompts=by_prompt, baseline=demo.baseline)
    threshold.save(demo.output / "threshold.json")
    normalised = bool(RECIPES[demo.recipe]["objective.weight_normalisation"])
    summary = describe(scores, threshold, demo.confidence, prompts, normalised=normalised)
    return scores, threshold.for_prompts(prompts), summary


def _train(demo: Demo, objective: str) -> tuple[Path, list[dict[str, float]]]:
    """Write OBJECTIVE.toml and train as it says; returns the exported model and the metrics' lines."""
    config = demo.output / f"{objective}.toml"
    config.write_text(settings.toml(demo, objective))
    result = train(load_config(config))
    result.raise_if_stopped()
    assert result.export is not None
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    return result.export, [json.loads(line) for line in lines]


def _evaluate(demo: Demo, name: str, weights: Path) -> Outcome:
    folder = demo.output / "evaluation" / name.lower()
    first_seed = EVALUATION_SEED + demo.seed * SEED_STRIDE
    manifest = _generate(demo, weights, folder, demo.amounts.evaluation_images, first_seed)
    rows = read_manifest(manifest, require_scores=False)
    images = [decode_image(rows.open_image(row)) for row in rows.rows]
    prompts = rows.prompts()
    return Outcome(
        name,
        images,
        prompts,
        scores=scorer.score(images, prompts),
        legibility=scorer.legibility(images, prompts),
        stroke_width=scorer.stroke_width(images),
        correct=classifier.correct(images, prompts),
    )
