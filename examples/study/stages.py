"""The stages of the study, one after another, and what is written in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from examples.study import ablations as changed
from examples.study import front, pictures, plan, report, results
from examples.study.methods import Changes
from examples.study.plan import ABLATION_SEEDS, FINALISTS, TUNING_SEEDS, Job
from examples.study.results import Bases, Gain
from examples.study.workers import Workers
from examples.study.world import World
from tglo.files import write_bytes, write_json


def study(
    workers: Workers, seeds: int, ablations: Sequence[str], page: Path | None
) -> Mapping[str, Changes]:
    """Tune, train and evaluate every method, run the ablations of these names, write tables and
    pictures (and fill a page). Returns the tuned settings by method; none for a world that has only the front.
    """
    folder, world = workers.folder, workers.world
    if not world.tuning_rewards:
        fronts(workers, seeds, world.fronts, (), page, run=True)
        return {}
    trials = tune(workers)
    tuned = {name: world.methods[name].grid[best(tried)] for name, tried in trials.items()}
    write_json(folder / "tuned.json", {"chosen": tuned, "gains": trials})
    main_jobs = plan.main_jobs(world, tuned, seeds)
    workers.run("methods", main_jobs, range(seeds))
    workers.run("grids", plan.grid_jobs(world, world.fronts, range(seeds)), range(seeds))
    others = plan.other_jobs(world, tuned, seeds)
    workers.run("other rewards", others, range(seeds))
    chosen = changed.ablation_jobs(world, tuned, min(seeds, ABLATION_SEEDS), ablations)
    every = [job for values in chosen.values() for jobs in values.values() for job in jobs]
    workers.run("ablations", every, range(seeds))

    bases = Bases(folder, "evaluation", range(seeds), world)
    found = [gain for job in main_jobs for gain in results.gains(folder, job, bases)]
    ablated = {
        name: {
            value: [gain for job in jobs for gain in results.gains(folder, job, bases)]
            for value, jobs in values.items()
        }
        for name, values in chosen.items()
    }
    made = [gain for job in others for gain in results.gains(folder, job, bases)]
    write(folder, world, seeds, main_jobs, found, tuned, trials, ablated, made, page)
    write_front(folder, seeds, world, (), page)
    return tuned


def fronts(
    workers: Workers,
    seeds: int,
    methods: Sequence[str],
    rewards: Sequence[str],
    page: Path | None,
    *,
    run: bool,
) -> None:
    """Run these methods' grids alone (unless what is done shall do), and write the front of gain against harm."""
    world = workers.world
    if run:
        jobs = plan.grid_jobs(world, methods, range(seeds), rewards)
        workers.run("grids", jobs, range(seeds))
    write_front(workers.folder, seeds, world, rewards, page)


def write_front(
    folder: Path, seeds: int, world: World, rewards: Sequence[str], page: Path | None
) -> None:
    """Write front.md and its picture from the jobs that are done."""
    found = front.measured(folder, range(seeds), world, rewards)
    blocks, image = front.blocks(found, world), front.picture(found, world.methods)
    text = "\n\n".join(f"## {name}\n\n{content}" for name, content in blocks.items())
    write_bytes(folder / "front.md", f"{text}\n".encode())
    write_bytes(folder / world.picture, image)
    if page is not None:
        report.write(page, blocks, {world.picture: image})
    print(f"{text}\n\nwrote {folder}/front.md and {world.picture}")


def tune(workers: Workers) -> dict[str, list[list[float]]]:
    """Return by method, for each setting of its grid, the gains on the tuning seeds: one where the setting
    was not among the best on the first, all of them for those that were.
    """
    world = workers.world
    trials: dict[str, list[list[float]]] = {name: [] for name in world.methods}
    first = TUNING_SEEDS[:1]
    grids = {name: method.grid for name, method in world.methods.items()}
    workers.run(
        "tuning",
        [j for n, g in grids.items() for s in g for j in plan.tuning_jobs(world, n, s, first)],
        first,
    )
    bases = Bases(workers.folder, "validation", first, world)
    for name, grid in grids.items():
        trials[name] = [_gains(workers, name, setting, first, bases) for setting in grid]
    finalists = {
        name: sorted(range(len(tried)), key=lambda i: -tried[i][0])[:FINALISTS]
        for name, tried in trials.items()
    }
    jobs = [
        job
        for name, chosen in finalists.items()
        for i in chosen
        for job in plan.tuning_jobs(world, name, grids[name][i], TUNING_SEEDS)
    ]
    workers.run("tuning, finalists", jobs, TUNING_SEEDS)
    bases = Bases(workers.folder, "validation", TUNING_SEEDS, world)
    for name, chosen in finalists.items():
        for i in chosen:
            setting = grids[name][i]
            trials[name][i] = _gains(workers, name, setting, TUNING_SEEDS, bases)
    return trials


def count(world: World, seeds: int, names: Sequence[str]) -> dict[str, int]:
    """Return the number of jobs by stage, tuning's as if no finalist were known."""
    methods = world.methods
    some = {name: method.grid[0] for name, method in methods.items()}
    grid = {job.name for job in plan.grid_jobs(world, world.fronts, range(seeds))}
    if not world.tuning_rewards:
        return {"grids": len(grid)}
    tuned = {job.name for job in plan.main_jobs(world, some, seeds)}
    ablated = changed.ablation_jobs(world, some, min(seeds, ABLATION_SEEDS), names)
    others = {job.name for values in ablated.values() for jobs in values.values() for job in jobs}
    settings = [(name, setting) for name, method in methods.items() for setting in method.grid]
    first = [j for name, s in settings for j in plan.tuning_jobs(world, name, s, TUNING_SEEDS[:1])]
    again = [
        job
        for name, method in methods.items()
        for setting in method.grid[:FINALISTS]
        for job in plan.tuning_jobs(world, name, setting, TUNING_SEEDS[1:])
    ]
    return {
        "tuning": len(first) + len(again),
        "grids": len(grid),
        "methods": len(tuned - grid),
        "other rewards": len(plan.other_jobs(world, some, seeds)),
        "ablations": len(others - grid - tuned),
    }


def best(tried: Sequence[Sequence[float]]) -> int:
    """Return the setting with the largest mean gain among those with the most seeds."""
    most = max(len(gains) for gains in tried)
    finalists = [i for i, gains in enumerate(tried) if len(gains) == most]
    return max(finalists, key=lambda i: float(np.mean(tried[i])))


def write(
    folder: Path,
    world: World,
    seeds: int,
    main_jobs: Sequence[Job],
    found: Sequence[Gain],
    tuned: Mapping[str, Changes],
    trials: Mapping[str, Sequence[Sequence[float]]],
    ablated: Mapping[str, Mapping[str, Sequence[Gain]]],
    made: Sequence[Gain],
    page: Path | None,
) -> None:
    """Write tables.md, results.csv and pictures."""
    others = [g for values in ablated.values() for gains in values.values() for g in gains]
    distinct = {(g.job.name, g.set, g.scorer): g for g in [*found, *others, *made]}
    write_bytes(folder / "results.csv", results.as_csv(list(distinct.values())).encode())
    table = report.Table(found, seeds, world)
    tables = report.blocks(table, tuned, trials, ablated) | {"others": report.others(world, made)}
    images = {"study.png": pictures.bars(table)}
    if (samples := pictures.samples(folder, main_jobs, world)) is not None:
        images["study-samples.png"] = samples
    text = "\n\n".join(f"## {name}\n\n{content}" for name, content in tables.items())
    write_bytes(folder / "tables.md", f"{text}\n".encode())
    for name, content in images.items():
        write_bytes(folder / name, content)
    if page is not None:
        report.write(page, tables, images)
    print(f"{text}\n\nwrote {folder}/tables.md, results.csv and pictures")


def _gains(
    workers: Workers, name: str, setting: Changes, seeds: Sequence[int], bases: Bases
) -> list[float]:
    """Return for each seed the mean gain over the tuning rewards, each on the model trained on it."""
    values = []
    for seed in seeds:
        jobs = plan.tuning_jobs(workers.world, name, setting, [seed])
        own = [
            gain.value
            for job in jobs
            for gain in results.gains(workers.folder, job, bases)
            if gain.scorer == job.reward
        ]
        values.append(float(np.mean(own)))
    return values
