"""The study: every objective on every reward of the shapes world, equally tuned, over several seeds.

    python -m examples.study --output study            # from a checkout's root; go on with the same
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

# The installed package, which has the extension, comes before the source folder.
sys.path.append(sys.path.pop(0))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from filelock import FileLock, Timeout

from examples.study import plan, record, reference, stages
from examples.study.ablations import ABLATIONS
from examples.study.plan import SIZES
from examples.study.workers import Workers
from tglo.files import claim_folder

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "study.md"
RECORD = ROOT / "benchmarks" / "results" / "study" / "shapes.json"


SECONDS = {"tuning": 15, "grids": 22, "other rewards": 22, "ablations": 22}
"""What a job of a stage takes on one core, and what `--plan` reckons with; tuning has fewer prompts."""


def say(counts: dict[str, int]) -> int:
    """Print the jobs by stage, and how long they take on two cores."""
    for stage, number in counts.items():
        print(f"{stage}: {number} jobs of about {SECONDS[stage]} s")
    hours = sum(number * SECONDS[stage] for stage, number in counts.items()) / 2 / 3600
    print(f"in all: {sum(counts.values())} jobs, about {hours:.1f} hours on two cores")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="cpu")
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
        choices=plan.METHODS,
        metavar="METHOD",
        help="only the grids of these methods (all, if none is named), and the front",
    )
    parser.add_argument("--rewards", nargs="+", choices=plan.REWARDS, default=plan.REWARDS)
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
    parser.add_argument("--record", action="store_true", help=f"go on from {RECORD.name}")
    parser.add_argument(
        "--docs", action="store_true", help=f"write docs/study.md and {RECORD.name}"
    )
    given = parser.parse_args()
    size = SIZES[given.size]
    seeds = size.seeds if given.seeds is None else given.seeds
    if seeds < 2 or given.workers < 1:
        parser.error(f"{seeds} seeds and {given.workers} workers; needed are at least 2 and 1")
    if given.docs and given.size != "cpu":
        parser.error(f"the page tells of --size cpu, not {given.size}; leave --docs out")
    if given.plan:
        return say(stages.count(seeds, size, given.ablations))
    folder = given.output.resolve()
    try:
        claim_folder(folder / "study.json", record.fingerprint(size))
        with FileLock(folder / ".lock", timeout=0), Workers(folder, size, given.workers) as workers:
            if given.record:
                print(f"{record.restore(RECORD, folder, size)} results from {RECORD}")
            page = PAGE if given.docs else None
            if given.report or given.fronts is not None:
                methods = given.fronts or tuple(plan.METHODS)
                run = not given.report
                stages.fronts(workers, seeds, methods, given.rewards, page, run=run)
            else:
                tuned = stages.study(workers, seeds, given.ablations, page)
            if given.reference and not given.report and given.fronts is None:
                reference.answer(workers, tuned["TGO"], seeds)
    except Timeout:
        parser.error(f"another process works in {folder}; wait for it, or name another folder")
    except ValueError as error:
        parser.error(str(error))
    if given.docs:
        record.save(folder, RECORD, size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
