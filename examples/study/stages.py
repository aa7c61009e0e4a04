"""The stages of the study, one after another, and what is written in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from examples.study import plan, report, results
from examples.study.plan import FINALISTS, METHODS, TUNING_SEEDS, Changes, Job, Size
from examples.study.results import Bases, Gain
from examples.study.workers import Workers
from tglo.files import write_bytes, write_json


def study(
    workers: Workers, seeds: int, ablations: Sequence[str], page: Path | None
) -> Mapping[str, Changes]:
    """Tune, train and evaluate every method, run the ablations of these names, write tables and
    pictures (and fill a page). Returns the tuned settings by method.
    """
    folder, size = workers.folder, workers.size
    trials = tune(workers)
    tuned = {name: METHODS[name].grid[best(tried)] for name, tried in trials.items()}
    write_json(folder / "tuned.json", {"chosen": tuned, "gains": trials})
    main_jobs = plan.main_jobs(tuned, seeds)
    workers.run("methods", main_jobs, range(seeds))
    chosen = plan.ablation_jobs(tuned["TGO"], seeds, size, ablations)
    every = [job for values in chosen.values() for jobs in values.values() for job in jobs]
    workers.run("ablations", every, range(seeds))

    bases = Bases(folder, "evaluation", range(seeds), size)
    found = [gain for job in main_jobs for gain in results.gains(folder, job, bases)]
    ablated = {
        name: {
            value: [gain for job in jobs for gain in results.gains(folder, job, bases)]
            for value, jobs in values.items()
        }
        for name, values in chosen.items()
    }
    write(folder, size, seeds, main_jobs, found, tuned, trials, ablated, page)
    return tuned


def tune(workers: Workers) -> dict[str, list[list[float]]]:
    """Return by method, for each setting of its grid, the gains on the tuning seeds: one where the setting
    was not among the best on the first, all of them for those that were.
    """
    trials: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    first = TUNING_SEEDS[:1]
    grids = {name: method.grid for name, method in METHODS.items()}
    workers.run(
        "tuning",
        [j for n, g in grids.items() for s in g for j in plan.tuning_jobs(n, s, first)],
        first,
    )
    bases = Bases(workers.folder, "validation", first, workers.size)
    for name, grid in grids.items():
        trials[name] = [_gains(workers.folder, name, setting, first, bases) for setting in grid]
    finalists = {
        name: sorted(range(len(tried)), key=lambda i: -tried[i][0])[:FINALISTS]
        for name, tried in trials.items()
    }
    jobs = [
        job
        for name, chosen in finalists.items()
        for i in chosen
        for job in plan.tuning_jobs(name, grids[name][i], TUNING_SEEDS)
    ]
    workers.run("tuning, finalists", jobs, TUNING_SEEDS)
    bases = Bases(workers.folder, "validation", TUNING_SEEDS, workers.size)
    for name, chosen in finalists.items():
        for i in chosen:
            setting = grids[name][i]
            trials[name][i] = _gains(workers.folder, name, setting, TUNING_SEEDS, bases)
    return trials


def best(tried: Sequence[Sequence[float]]) -> int:
    """Return the setting with the largest mean gain among those with the most seeds."""
    most = max(len(gains) for gains in tried)
    finalists = [i for i, gains in enumerate(tried) if len(gains) == most]
    return max(finalists, key=lambda i: float(np.mean(tried[i])))


def write(
    folder: Path,
    size: Size,
    seeds: int,
    main_jobs: Sequence[Job],
    found: Sequence[Gain],
    tuned: Mapping[str, Changes],
    trials: Mapping[str, Sequence[Sequence[float]]],
    ablated: Mapping[str, Mapping[str, Sequence[Gain]]],
    page: Path | None,
) -> None:
    """Write tables.md, results.csv and pictures."""
    others = [g for values in ablated.values() for gains in values.values() for g in gains]
    distinct = {(g.job.name, g.set, g.scorer): g for g in [*found, *others]}
    write_bytes(folder / "results.csv", results.as_csv(list(distinct.values())).encode())
    table = report.Table(found, seeds)
    tables = report.blocks(table, tuned, trials, ablated)
    images = {"study.png": report.bars(table)}
    if (samples := report.pictures(folder, main_jobs, size)) is not None:
        images["study-samples.png"] = samples
    text = "\n\n".join(f"## {name}\n\n{content}" for name, content in tables.items())
    write_bytes(folder / "tables.md", f"{text}\n".encode())
    for name, content in images.items():
        write_bytes(folder / name, content)
    if page is not None:
        report.write(page, tables, images)
    print(f"{text}\n\nwrote {folder}/tables.md, results.csv and pictures")


def _gains(
    folder: Path, name: str, setting: Changes, seeds: Sequence[int], bases: Bases
) -> list[float]:
    """Return for each seed the mean gain over the tuning rewards, each on the model trained on it."""
    values = []
    for seed in seeds:
        jobs = plan.tuning_jobs(name, setting, [seed])
        own = [
            gain.value
            for job in jobs
            for gain in results.gains(folder, job, bases)
            if gain.scorer == job.reward
        ]
        values.append(float(np.mean(own)))
    return values
