"""What a whole training step costs: tglo's, and the same step as it is written today.

    python -m benchmarks.step --output FILE                  # from a checkout's root
    python -m benchmarks.step --quick                        # does everything work?
    python -m benchmarks.step --device cuda --output FILE    # SDXL at its true size

Prints tables; writes its record as it grows. The exit status is 1 if a step of tglo's is wrong.
"""

from __future__ import annotations

import os
import sys

# The installed package, which has the extension, comes before the source folder.
sys.path.append(sys.path.pop(0))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave the core to others
# Several batches follow each other in a process.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

from benchmarks.step import tables
from benchmarks.step.contenders import CONTENDERS
from benchmarks.step.plan import PLANS
from benchmarks.step.sizes import SIZES
from benchmarks.step.suite import measure, problems
from tglo.devices import choose_device
from tglo.files import write_json


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="the least that runs everything")
    parser.add_argument("--size", choices=SIZES, help="the model")
    parser.add_argument("--batches", type=int, nargs="+", help="samples in a step, rising")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--ablation-batch", type=int, help="0 leaves the ablation out")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="timed steps in a round")
    parser.add_argument("--seconds", type=float, help="for everything")
    parser.add_argument("--threads", type=int, help="of PyTorch, in each process")
    parser.add_argument(
        "--fork",
        action=argparse.BooleanOptionalAction,
        help="fork processes from one that has imported everything; on by default on the CPU",
    )
    parser.add_argument("--output", type=Path, help="write the record here as it grows")
    given = vars(parser.parse_args())
    output: Path | None = given.pop("output")
    device = choose_device(given.pop("device")).type
    plan = PLANS["quick" if given.pop("quick") else device]
    plan = dataclasses.replace(plan, device=device, fork=device == "cpu")
    plan = dataclasses.replace(plan, **_chosen(given))
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("tglo").setLevel(logging.INFO)

    def save(record: dict[str, Any]) -> None:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, record)

    record = measure(plan, save)
    print(tables.whole(record))
    wrong = problems(record)
    for line in wrong:
        print(line, file=sys.stderr)
    return min(len(wrong), 1)


def _chosen(given: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, as fields of a Plan."""
    found = {name: value for name, value in given.items() if value is not None}
    if "batches" in found:
        found["batches"] = tuple(sorted(found["batches"]))
    if "contenders" in found:
        found["contenders"] = tuple(found["contenders"])
    return found


if __name__ == "__main__":
    sys.exit(main())
