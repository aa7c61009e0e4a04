"""Two further questions to the study's world, for docs/cached-reference.md: how many draws of a sample the
reference's cache needs, and whether the three modes of the reference are one run.

The kept records, benchmarks/results/study/draws.json and modes.json, hold the same of the demo's model.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.study import pictures, report, results, runs
from examples.study.data import Pool
from examples.study.methods import Changes
from examples.study.plan import FRESH_DRAWS, Job
from examples.study.results import Bases
from examples.study.workers import Workers
from examples.study.world import Size, World
from tglo.bench.record import describe
from tglo.bench.table import markdown
from tglo.files import write_bytes, write_json
from tglo.train import train
from tglo.train.config_files import parse_config

COUNTS = {"plain": (1, 2, 4, 8), "stratified": (2, 4, 8)}  # one draw cannot be stratified
OTHER_DRAWS = "copy other"  # the same with another seed of the draws: how far luck goes
NAMES = {
    "copy": "frozen copy, a new draw each epoch",
    OTHER_DRAWS: "the same with another seed of the draws",
}
MODES = ("copy", "adapter-off", "cached")
CLASSES = ("r_positive", "r_negative")
REWARD = "stars"


def answer(workers: Workers, tuned: Changes, seeds: int) -> None:
    """Run both, and write their records, tables and pictures into the study's folder."""
    folder = workers.folder
    draws, modes = run_draws(workers, tuned, seeds), run_modes(folder, tuned, workers.world)
    write_json(folder / "draws.json", draws)
    write_json(folder / "modes.json", modes)
    write_bytes(folder / "draws.png", draw_draws(draws))
    write_bytes(folder / "modes.png", draw_modes(modes))
    text = "\n\n".join(f"## {name}\n\n{part}" for name, part in blocks(draws, modes).items())
    write_bytes(folder / "reference.md", f"{text}\n".encode())
    print(f"{text}\n\nwrote {folder}/reference.md, draws.json, modes.json and pictures")


def blocks(draws: dict[str, Any], modes: dict[str, Any]) -> dict[str, str]:
    """Return what belongs between the markers of docs/cached-reference.md."""
    return {"modes": summary(modes), "draws": table(draws)}


def draws_jobs(tuned: Changes, seed: int, size: Size) -> dict[str, Job]:
    """Return the jobs of one seed by mode: few images, so that a draw comes again in many epochs."""
    few = Job("TGO", REWARD, seed, tuned, used=size.prompts * size.images // 8)
    copy = replace(few, draws=FRESH_DRAWS)
    found = {"copy": copy, OTHER_DRAWS: _changed(copy, {"data.draw_seed": 1000 + seed})}
    for kind, counts in COUNTS.items():
        for count in counts:
            job = replace(few, draws=count)
            plain = kind == "plain" and count > 1
            found[f"{kind} {count}"] = _changed(job, {"data.stratified": False}) if plain else job
    return found


def run_draws(workers: Workers, tuned: Changes, seeds: int) -> dict[str, Any]:
    """Return by mode the gain of each seed, in standard deviations of the base's scores."""
    by_seed = [draws_jobs(tuned, seed, workers.world.size) for seed in range(seeds)]
    workers.run("draws", [job for jobs in by_seed for job in jobs.values()], range(seeds))
    bases = Bases(workers.folder, "evaluation", range(seeds), workers.world)
    gains = {}
    for mode in by_seed[0]:
        found = [g for jobs in by_seed for g in results.gains(workers.folder, jobs[mode], bases)]
        gains[mode] = report.by_seed(found, REWARD).tolist()
    return {"seeds": list(range(seeds)), "gains": gains, "machine": describe()}


def run_modes(folder: Path, tuned: Changes, world: World) -> dict[str, Any]:
    """Train a LoRA in each mode on the same draws, and return the lines of its metrics."""
    pool, lines = Pool(folder, 0, world), {}
    lora = {"model.train": "lora", "model.lora_rank": 16, "optimizer.learning_rate": 1e-2}
    reported = {"output.log_every": 1, "output.export": False}
    for mode in MODES:
        job = Job("TGO", REWARD, 0, {**tuned, **lora, **reported, "objective.reference": mode})
        pool.make([job])
        here = folder / "modes" / mode
        if not (here / "metrics.jsonl").is_file():
            train(parse_config(runs.settings(pool, job, here)))
        read = [json.loads(line) for line in (here / "metrics.jsonl").read_text().splitlines()]
        kept = ("step", *CLASSES, "loss", "noise_floor")
        lines[mode] = [{key: line[key] for key in kept if key in line} for line in read]
    return lines


def table(record: dict[str, Any]) -> str:
    """Return the mean gain and spread of every mode over the seeds, with its difference from the copy."""
    copy, rows = np.array(record["gains"]["copy"]), []
    for mode, values in record["gains"].items():
        gains = np.array(values)
        paired = gains - copy
        error = paired.std(ddof=1) / len(paired) ** 0.5 if len(paired) > 1 else 0.0
        rows.append(
            [
                NAMES.get(mode) or f"cached, K = {mode.split()[1]}, {mode.split()[0]}",
                f"{gains.mean():+.2f}",
                f"{gains.min():+.2f} to {gains.max():+.2f}",
                "" if mode == "copy" else f"{paired.mean():+.2f} ± {error:.2f}",
            ]
        )
    return markdown(["reference", "mean gain", "over seeds", "minus the copy's"], rows)


def summary(lines: dict[str, Any]) -> str:
    """Say how far the modes lie apart, beside how far they move."""
    curves = {
        mode: np.array([[line[name] for name in CLASSES] for line in lines[mode]]) for mode in MODES
    }
    moved = np.abs(curves["copy"]).max()
    apart = max(np.abs(curves[mode] - curves["copy"]).max() for mode in MODES[1:])
    return (
        f"Over {len(lines['copy'])} steps the mean scores r of positives and negatives reached "
        f"{moved:.2f} in size; between the modes they differed by at most {apart:.1e}. The noise floor "
        f"that the cached run reported in its first step was {lines['cached'][0]['noise_floor']:.2g}."
    )


def draw_draws(record: dict[str, Any]) -> bytes:
    """Draw gain against K, stratified and not, beside the copy's mean and range."""
    figure, axes = _figure()
    copy = np.array(record["gains"]["copy"])
    axes.axhspan(copy.min(), copy.max(), color="#dddddd", label="frozen copy: range over seeds")
    axes.axhline(copy.mean(), color="#666666", linewidth=1.2, label="frozen copy: mean")
    other = np.mean(record["gains"][OTHER_DRAWS])
    axes.axhline(other, color="#666666", linewidth=1.0, linestyle=":", label="other draws: mean")
    for kind, color, shift in (("plain", "#d98c21", 0.96), ("stratified", "#1f6fb4", 1.04)):
        counts = np.array(COUNTS[kind])
        gains = np.array([record["gains"][f"{kind} {k}"] for k in counts])
        axes.plot(counts * shift, gains, ".", color=color, markersize=5)
        axes.plot(counts * shift, gains.mean(1), "-o", color=color, label=f"cached, {kind}: mean")
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_xlabel("cached draws K of each sample")
    axes.set_ylabel("gain, standard deviations\nof the base's scores")
    axes.legend(fontsize=8)
    return pictures.png(figure)


def draw_modes(lines: dict[str, Any]) -> bytes:
    """Draw mean r of both classes, step by step; one line style for each mode."""
    figure, axes = _figure()
    styles = {"copy": ("-", 4.5, 0.35), "adapter-off": ("-", 1.8, 1.0), "cached": (":", 2.2, 1.0)}
    for mode, (style, width, alpha) in styles.items():
        steps = [line["step"] for line in lines[mode]]
        for name, color in zip(CLASSES, ("#2f8f4e", "#b3422f"), strict=True):
            values = [line[name] for line in lines[mode]]
            shown = "black" if mode == "cached" else color
            label = f"{mode}, {name.removeprefix('r_')}s"
            axes.plot(steps, values, style, color=shown, linewidth=width, alpha=alpha, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("mean r")
    figure.legend(fontsize=8, ncols=3, loc="outside lower center", frameon=False)
    return pictures.png(figure)


def _changed(job: Job, changes: Changes) -> Job:
    return replace(job, changes=job.changes | changes)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
