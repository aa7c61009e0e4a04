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

from tglo.demo import classifier, digits, figures, report, scorer, settings
from tglo.demo.report import Outcome
from tglo.demo.settings import (
    BATCH,
    EVALUATION_SEED,
    MODELS,
    QUICK,
    SCORER,
    SEED_STRIDE,
    Amounts,
    DemoModel,
)

log = logging.getLogger("tglo")

OBJECTIVES = {"SFT": "sft", "TGO": "tgo"}


def run(
    output: Path, *, model: str = "diffusion", seed: int = 0, quick: bool = False
) -> dict[str, Any]:
    """Runs the demo in ``output`` and returns what report.json holds: one row of numbers per model,
    and seconds.

    ``model`` is one of `settings.MODELS`. ``seed`` changes the training set, both trainings and the
    evaluation. ``quick`` takes a few steps of everything, to see that all works; its numbers mean
    nothing. Finished images and steps of an interrupted run are kept, so the same call goes on.
    ValueError for another model, and if ``output`` holds a demo with another model, seed or size.
    """
    if not 0 <= seed < 1000:
        raise ValueError(
            f"the demo's seed must be from 0 to 999, got {seed}: every seed has images of its own"
        )
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; the demo has {', '.join(MODELS)}")
    chosen = MODELS[model]
    amounts = QUICK if quick else chosen.amounts
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    _claim(output, {"model": model, "seed": seed, **asdict(amounts)})
    watch = Stopwatch()

    with watch.part("generate"):
        manifest = _generate(
            chosen,
            chosen.base,
            output / "data",
            amounts.training_images,
            seed * SEED_STRIDE,
            amounts,
        )
    with watch.part("score"):
        scores, threshold, text = _score(manifest, output)
    print(text)
    with watch.part("cache"):
        _cache(output, chosen)
    models = {"base": chosen.base}
    metrics = {}
    for name, objective in OBJECTIVES.items():
        with watch.part(f"train {name}"):
            models[name], metrics[name] = _train(output, chosen, objective, seed, amounts)
    outcomes = []
    for name, folder in models.items():
        with watch.part("evaluate"):
            evaluation = output / "evaluation" / name.lower()
            outcomes.append(_evaluate(name, chosen, folder, evaluation, seed, amounts))

    with watch.part("report"):
        columns = np.arange(20) % len(outcomes[0].images)
        pictures = {
            "samples.png": figures.png_bytes(figures.sample_grid(outcomes, columns)),
            "scores.png": figures.score_histograms(scores, threshold, outcomes),
            "training.png": figures.training_curves(metrics),
        }
        facts = settings.facts(amounts, seed)
        page = report.write_report(
            output / "report",
            outcomes,
            pictures,
            title=chosen.title,
            facts=facts,
            commands=settings.commands(output, chosen, seed, amounts),
        )
    rows = {outcome.name: outcome.row(outcomes[0]) for outcome in outcomes}
    result = {
        "model": model,
        "seed": seed,
        "quick": quick,
        "models": rows,
        "seconds": watch.seconds,
        "report": str(page),
    }
    (output / "report" / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{report.summary(outcomes)}\n")
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


def _claim(output: Path, wanted: dict[str, Any]) -> None:
    """Binds the folder to its settings: images made for others must not be taken for ours."""
    path = output / "demo.json"
    if path.exists():
        held = json.loads(path.read_text())
        if held != wanted:
            raise ValueError(
                f"{output} holds a demo with {held}, not {wanted}: "
                "choose another folder or remove it"
            )
    elif any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no demo: choose another folder")
    else:
        path.write_text(json.dumps(wanted) + "\n")


def _generate(
    model: DemoModel, weights: Path, folder: Path, count: int, first_seed: int, amounts: Amounts
) -> Path:
    from tglo.generation.generate import generate_images

    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(digits.PROMPTS) + "\n")
    return generate_images(
        str(weights),
        prompts,
        folder,
        model.sampling(amounts.sampling_steps),
        count=count,
        batch_size=BATCH,
        seed=first_seed,
        device="cpu",
    )


def _score(manifest: Path, output: Path) -> tuple[np.ndarray, float, str]:
    """Writes data/scored.csv and threshold.json; returns scores, threshold and a summary of labels
    and weights.
    """
    from tglo.data.manifest import read_manifest, write_manifest
    from tglo.rewards import load_scorer, score_manifest
    from tglo.threshold.frozen import describe, estimate

    rows = read_manifest(manifest, require_scores=False)
    write_manifest(
        manifest.with_name("scored.csv"), score_manifest(rows, load_scorer(SCORER), batch_size=250)
    )
    scored = read_manifest(manifest.with_name("scored.csv"))
    threshold = estimate(scored.scores(), 50.0)
    threshold.save(output / "threshold.json")
    return (
        scored.scores(),
        threshold.value,
        str(describe(scored.scores(), threshold, 5.0, scored.prompts())),
    )


def _cache(output: Path, model: DemoModel) -> None:
    from tglo.cache.make import build

    build(
        str(model.base),
        output / "data" / "scored.csv",
        output / "cache",
        resolution=digits.SIZE,
        batch_size=BATCH,
    )


def _train(
    output: Path, model: DemoModel, objective: str, seed: int, amounts: Amounts
) -> tuple[Path, list[dict[str, float]]]:
    """Writes OBJECTIVE.toml and trains as it says; returns the exported model and the metrics'
    lines.
    """
    from tglo.train import load_config, train

    config = output / f"{objective}.toml"
    config.write_text(settings.toml(output, model, objective, seed, amounts))
    result = train(load_config(config))
    if result.export is None:
        raise SystemExit("stopped by a signal; the same command goes on")
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    return result.export, [json.loads(line) for line in lines]


def _evaluate(
    name: str, model: DemoModel, weights: Path, folder: Path, seed: int, amounts: Amounts
) -> Outcome:
    first_seed = EVALUATION_SEED + seed * SEED_STRIDE
    manifest = _generate(model, weights, folder, amounts.evaluation_images, first_seed, amounts)
    from tglo.data.images import decode_image
    from tglo.data.manifest import read_manifest

    rows = read_manifest(manifest, require_scores=False)
    images = [decode_image(rows.open_image(row)) for row in rows.rows]
    prompts = rows.prompts()
    return Outcome(
        name,
        images,
        scores=scorer.score(images, prompts),
        legibility=scorer.legibility(images, prompts),
        stroke_width=scorer.stroke_width(images),
        accuracy=classifier.accuracy(images, prompts),
    )
