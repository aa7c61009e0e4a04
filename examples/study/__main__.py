"""The study: every objective on every reward of a small world, equally tuned, over several seeds.

    python -m examples.study --output study            # from a checkout's root; resume with the same
    python -m examples.study --output try --size quick # does everything work?

Tunes each method with the same budget on validation prompts and images of its own, trains and
evaluates all of them, runs the ablations, and writes tables.md, results.csv and pictures into the
output folder. Every setting of every grid is also run on the evaluation: the front of gain against harm.
Jobs that are done are kept; with --record those of a record are, too. --plan says how many there are.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import examples.study.installed  # noqa: F401  (before tglo)

# isort: split
from filelock import FileLock, Timeout

from examples.study import record, reference, stages
from examples.study.ablations import ABLATIONS
from examples.study.workers import Workers
from examples.study.world import SHAPES, WORLDS, World

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "study.md"


def say(counts: dict[str, dict[str, int]]) -> int:
    """Print the jobs by world and stage, and how long they take on two cores."""
    jobs = hours = 0.0
    for name, stages_ in counts.items():
        for stage, number in stages_.items():
            if number:
                print(f"{name}, {stage}: {number} jobs of about {WORLDS[name].seconds[stage]:g} s")
                jobs += number
                hours += number * WORLDS[name].seconds[stage] / 2 / 3600
    print(f"in all: {jobs:.0f} jobs, about {hours:.1f} hours on two cores")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--world",
        choices=WORLDS,
        help="shapes by default; --plan tells of both unless one is named",
    )
    parser.add_argument("--size", choices=SHAPES.sizes, default="cpu")
    parser.add_argument("--seeds", type=int, help="more than before adds to what is there")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="jobs at a time"
    )
    parser.add_argument(
        "--ablations",
        nargs="*",
        choices=ABLATIONS,
        default=ABLATIONS,
        metavar="NAME",
        help=f"which, of {', '.join(ABLATIONS)}; all by default",
    )
    parser.add_argument(
        "--fronts",
        nargs="*",
        choices=list(dict.fromkeys(name for w in WORLDS.values() for name in w.methods)),
        metavar="METHOD",
        help="only the grids of these methods (all, if none is named), and the front",
    )
    parser.add_argument(
        "--rewards",
        nargs="+",
        choices=list(dict.fromkeys(name for w in WORLDS.values() for name in w.rewards)),
        default=(),
        metavar="REWARD",
        help="of the front; all of the world's by default",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="run nothing: only the front of the jobs that are done",
    )
    parser.add_argument("--plan", action="store_true", help="say how many jobs there are, and end")
    parser.add_argument(
        "--reference",
        action="store_true",
        help="also ask how many cached draws the reference needs, and whether its modes are one run",
    )
    parser.add_argument(
        "--record", action="store_true", help="start from the results kept with the project"
    )
    parser.add_argument(
        "--docs", action="store_true", help="write docs/study.md, and keep the results"
    )
    given = parser.parse_args()
    world = WORLDS[given.world or SHAPES.name].of_size(given.size)
    seeds = world.size.seeds if given.seeds is None else given.seeds
    if seeds < 2 or given.workers < 1:
        parser.error(f"{seeds} seeds and {given.workers} workers; needed are at least 2 and 1")
    if given.docs and given.size != "cpu":
        parser.error(f"the page tells of --size cpu, not {given.size}; leave --docs out")
    if given.plan:
        planned = [world] if given.world else [w.of_size(given.size) for w in WORLDS.values()]
        return say({w.name: stages.count(w, seeds, given.ablations) for w in planned})
    unknown = [name for name in given.fronts or () if name not in world.methods]
    unknown += [name for name in given.rewards if name not in world.rewards]
    if given.reference and not world.tuning_rewards:
        unknown.append("--reference")
    if unknown:
        parser.error(f"the world {world.name} is without {', '.join(unknown)}; leave that out")
    try:
        run(given, world, seeds)
    except Timeout:
        parser.error(f"another process works in {given.output}; wait, or name another folder")
    except ValueError as error:
        parser.error(str(error))
    return 0


def run(given: argparse.Namespace, world: World, seeds: int) -> None:
    """Run what is missing in the output folder, and write what is asked for."""
    folder, page = given.output.resolve(), PAGE if given.docs else None
    record.claim(folder, world)
    with FileLock(folder / ".lock", timeout=0), Workers(folder, world, given.workers) as workers:
        if given.record:
            print(f"{record.restore(world.record, folder, world)} results from {world.record}")
        if given.report or given.fronts is not None:
            methods = given.fronts or world.fronts
            stages.fronts(workers, seeds, methods, given.rewards, page, run=not given.report)
        else:
            tuned = stages.study(workers, seeds, given.ablations, page)
            if given.reference:
                reference.answer(workers, tuned["TGO"], seeds)
    if given.docs:
        record.save(folder, world.record, world)


if __name__ == "__main__":
    sys.exit(main())
