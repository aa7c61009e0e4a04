"""The study: every objective on every reward of the shapes world, equally tuned, over several seeds.

    python -m examples.study --output study            # from a checkout's root; go on with the same
    python -m examples.study --output try --size quick # does everything work?

Tunes each method with the same budget on validation prompts of its own, trains and evaluates all of
them, runs the ablations, and writes tables.md, results.csv and pictures into the output folder. With
--docs it also fills docs/study.md. About an hour and a half on two CPU cores; jobs that are done are
kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# The installed package, which has the extension, comes before the source folder.
sys.path.append(sys.path.pop(0))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from examples.study import plan, report, results
from examples.study.plan import SIZES, Changes, Job, Size
from examples.study.workers import Workers
from tglo.files import claim_folder, write_bytes, write_json

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--seeds", type=int, help="more than before adds to what is there")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="jobs at a time")
    parser.add_argument("--docs", action="store_true", help="fill docs/study.md")
    given = parser.parse_args()
    size = SIZES[given.size]
    seeds = given.seeds or size.seeds
    if seeds < 2 or given.workers < 1:
        parser.error(f"{seeds} seeds and {given.workers} workers; needed are at least 2 and 1")
    claim_folder(given.output / "study.json", {"size": given.size, **_texts(size)})
    with Workers(given.output.resolve(), size, given.workers) as workers:
        study(workers, seeds, ROOT / "docs" / "study.md" if given.docs else None)
    return 0


def study(workers: Workers, seeds: int, page: Path | None) -> None:
    """All stages, then the tables."""
    folder, size = workers.folder, workers.size
    grids = plan.tuning_jobs()
    workers.run("tuning", [j for grid in grids.values() for jobs in grid for j in jobs])
    validation = {
        name: [float(np.mean([_own_gain(folder, job, size) for job in jobs])) for jobs in grid]
        for name, grid in grids.items()
    }
    tuned: dict[str, Changes] = {
        name: plan.METHODS[name].grid[int(np.argmax(values))] for name, values in validation.items()
    }
    write_json(folder / "tuned.json", {"chosen": tuned, "gains": validation})
    main_jobs = plan.main_jobs(tuned, seeds)
    workers.run("methods", main_jobs)
    ablations = plan.ablation_jobs(tuned["TGO"], seeds, size)
    workers.run("ablations", [j for a in ablations.values() for jobs in a.values() for j in jobs])

    found = [gain for job in main_jobs for gain in results.gains(folder, job, size)]
    ablated = {
        name: {
            value: [gain for job in jobs for gain in results.gains(folder, job, size)]
            for value, jobs in values.items()
        }
        for name, values in ablations.items()
    }
    others = [g for values in ablated.values() for gains in values.values() for g in gains]
    distinct = {(g.job.name, g.set, g.scorer): g for g in [*found, *others]}
    write_bytes(folder / "results.csv", results.as_csv(list(distinct.values())).encode())
    table = report.Table(found, seeds)
    tables = report.blocks(table, tuned, validation, ablated)
    images = {
        "study.png": report.bars(table),
        "study-samples.png": report.pictures(folder, main_jobs, size),
    }
    text = "\n\n".join(f"## {name}\n\n{content}" for name, content in tables.items())
    write_bytes(folder / "tables.md", f"{text}\n".encode())
    for name, content in images.items():
        write_bytes(folder / name, content)
    if page is not None:
        report.write(page, tables, images)
    print(f"{text}\n\nwrote {folder}/tables.md, results.csv and pictures")


def _own_gain(folder: Path, job: Job, size: Size) -> float:
    """On the reward that the job was trained on."""
    return next(g.value for g in results.gains(folder, job, size) if g.scorer == job.reward)


def _texts(size: Size) -> dict[str, str]:
    return {key: str(getattr(size, key)) for key in size.__dataclass_fields__ if key != "seeds"}


if __name__ == "__main__":
    sys.exit(main())
