"""The cost of a whole training step: tglo's, and the same step as it is written today.

    python -m benchmarks.step --output FILE                  # from a checkout's root
    python -m benchmarks.step --quick                        # does everything work?
    python -m benchmarks.step --device cuda --output FILE    # SDXL at its true size
    python -m benchmarks.step --model flux ...               # FLUX.1 dev, each of these; or wan, Wan 2.1 1.3B

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
from pathlib import Path

from benchmarks import command
from benchmarks.step import tables
from benchmarks.step.contenders import CONTENDERS
from benchmarks.step.models import MODELS, SIZES
from benchmarks.step.plan import PLANS
from benchmarks.step.suite import measure, problems
from tglo.bench.record import save


def main() -> int:
    parser = command.parser("python -m benchmarks.step", __doc__)
    parser.add_argument("--quick", action="store_true", help="the least that runs everything")
    parser.add_argument("--model", choices=MODELS, help="that of --size by default, else sdxl")
    parser.add_argument("--size", choices=SIZES, help="one of the model's sizes")
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
    given = vars(parser.parse_args())
    output: Path | None = given.pop("output")
    device = given.pop("device")
    size, model = given["size"], given.pop("model")
    model = model or (SIZES[size].model if size else MODELS[0])
    if size and SIZES[size].model != model:
        parser.error(f"--size {size} is of {SIZES[size].model}, not of {model}; leave out --model")
    plan = PLANS[model]["quick" if given.pop("quick") else device]
    plan = dataclasses.replace(plan, device=device, fork=device == "cpu")
    given["batches"] = given["batches"] and tuple(sorted(given["batches"]))
    given["contenders"] = given["contenders"] and tuple(given["contenders"])
    chosen = {name: value for name, value in given.items() if value is not None}
    plan = dataclasses.replace(plan, **chosen)
    command.start_log()
    record = measure(plan, lambda record: save(record, output))
    print(tables.whole(record))
    return command.end(problems(record))


if __name__ == "__main__":
    sys.exit(main())
