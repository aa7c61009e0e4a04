"""The study: every objective on every reward of the shapes world, equally tuned, over several seeds.

    python -m examples.study --output study            # from a checkout's root; go on with the same
    python -m examples.study --output try --size quick # does everything work?

Tunes each method with the same budget on validation prompts and images of its own, trains and
evaluates all of them, runs the ablations, and writes tables.md, results.csv and pictures into the
output folder. Jobs that are done are kept; with --record those of a record are, too. About an hour
and a half on two CPU cores.
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

from examples.study import plan, record, reference
from examples.study.plan import SIZES
from examples.study.stages import study
from examples.study.workers import Workers
from tglo.files import claim_folder

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "study.md"
RECORD = ROOT / "benchmarks" / "results" / "study" / "shapes.json"


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
        choices=plan.ABLATIONS,
        default=plan.ABLATIONS,
        metavar="NAME",
        help=f"which, of {', '.join(plan.ABLATIONS)}; all by default",
    )
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
    folder = given.output.resolve()
    try:
        claim_folder(folder / "study.json", record.fingerprint(size))
        with FileLock(folder / ".lock", timeout=0), Workers(folder, size, given.workers) as workers:
            if given.record:
                print(f"{record.restore(RECORD, folder, size)} results from {RECORD}")
            tuned = study(workers, seeds, given.ablations, PAGE if given.docs else None)
            if given.reference:
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
