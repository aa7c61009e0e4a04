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

from benchmarks import command
from benchmarks.tokens.contenders import NAMES, SIZES, TASKS
from benchmarks.tokens.suite import measure, problems
from benchmarks.tokens.tables import one_place
from tglo.bench import table
from tglo.bench.record import Record, save


def main() -> int:
    parser = command.parser("python -m benchmarks.tokens", __doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["meissonic-1024"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--contenders", dest="names", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender")
    parser.add_argument("--backend", default="auto", help="of tglo")
    given = vars(parser.parse_args())
    output = given.pop("output")
    command.start_log()

    def show(record: Record) -> None:
        save(record, output)
        print(f"\n{one_place(record, record['rows'][-1], table.text)}\n", flush=True)

    record = measure(save=show, **given)
    print(table.machine(record, load=True))
    return command.end(problems(record))


if __name__ == "__main__":
    sys.exit(main())
