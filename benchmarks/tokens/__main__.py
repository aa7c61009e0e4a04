"""Time, peak memory and accuracy of the log-probabilities of masked tokens, and of TGO's loss on them.

    python -m benchmarks.tokens --output FILE                 # from a checkout's root
    python -m benchmarks.tokens --device cuda --dtype bfloat16 --output FILE
    python -m benchmarks.tokens --size amused-256 --batch 1 8 --task loss

Each is one step, forward and backward: gradients of the hidden states and of the head's weight. The
loss has the reference's hidden states, which go through the same head. Results are compared with
float64 before they are timed; the exit status is 1 if tglo's are further off than twice eager's.
Liger-Kernel's fused loss takes part on a GPU where liger-kernel is installed.
"""

from __future__ import annotations

import os
import sys

# The installed package, which has the extension, comes before the source folder.
sys.path.append(sys.path.pop(0))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave the core to others

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from benchmarks.tokens.contenders import NAMES, SIZES, TASKS
from benchmarks.tokens.measure import check_named
from benchmarks.tokens.suite import measure
from benchmarks.tokens.tables import machine, one_place
from tglo.bench import table
from tglo.devices import choose_device
from tglo.files import write_json


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokens",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["meissonic-1024"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--contenders", dest="names", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender")
    parser.add_argument("--backend", default="auto", help="of tglo")
    parser.add_argument("--output", type=Path, help="write the record here as it grows")
    parser.add_argument("--check", help=argparse.SUPPRESS)  # one contender, in its own process
    given = vars(parser.parse_args())
    if spec := given.pop("check"):
        print(json.dumps(check_named(**json.loads(spec))))
        return 0
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    given["device"] = choose_device(given["device"]).type
    output = given.pop("output")
    record: dict[str, Any] = {}
    for record in measure(**given):
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, record)
        print(f"\n{one_place(record, record['rows'][-1], table.text)}\n", flush=True)
    print(machine(record))
    wrong = [row for row in record["rows"] if row["wrong"]]
    for row in wrong:
        print(
            f"{row['contender']}, {row['task']}, {row['size']} x {row['batch']}: {row['problem']}"
        )
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
