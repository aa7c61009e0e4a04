"""What every GPU kernel takes of a multiprocessor, and how it moves memory, without a GPU.

    python -m benchmarks.resources [--output FILE] [--sources] [--sm 80 90 100]

CUDA kernels are read out of tglo/_C.so, or compiled from csrc/ by nvcc where the extension has none
(--sources: in any case); Triton kernels are compiled ahead of time. cuobjdump comes with Triton's wheel.
Prints a table, writes the record to FILE, and ends with status 1 if a kernel has a stack, spills or
float atomics, or moves half-precision vectors by anything but 16 bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))  # for the tests' list of Triton variants

from benchmarks.resources import binaries
from benchmarks.resources.judge import faults
from benchmarks.resources.kernels import cuda_row, triton_rows
from benchmarks.resources.occupancy import ARCHITECTURES

COLUMNS = {
    "kernel": "kernel",
    "variant": "variant",
    "sm": "sm",
    "threads": "threads",
    "registers": "registers",
    "shared": "shared",
    "stack": "stack",
    "local": "local",
    "blocks": "blocks",
    "warps": "warps",
    "limit": "limited by",
    "loads": "loads by bits",
    "stores": "stores by bits",
    "instructions_per_vector": "instructions a vector",
    "in_flight": "16-byte loads in flight",
    "float_atomics": "float atomics",
}


def cell(value: Any) -> str:
    """Format a cell: widths as "128:12 16:24", nothing for what is not known."""
    if isinstance(value, dict):
        return " ".join(f"{bits}:{count}" for bits, count in value.items())
    return "" if value is None else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows in Markdown."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[cell(row.get(column)) for column in COLUMNS] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def limits() -> str:
    """Format the limits that occupancy was computed with."""
    names = ("threads", "blocks", "shared", "shared_of_block")
    lines = [["sm", *names], ["---"] * 5]
    lines += [[str(sm), *(str(getattr(a, n)) for n in names)] for sm, a in ARCHITECTURES.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cuda_rows(architectures: list[int], sources: bool) -> list[dict[str, Any]]:
    """Return the rows of the extension's CUDA kernels, or of csrc/'s; none without either."""
    from tglo.ops import EXTENSION

    if EXTENSION.architectures and not sources:
        raw = binaries.read_extension(EXTENSION.path)
    elif binaries.nvcc_version():
        raw = [
            row
            for path in binaries.compile_sources(architectures)
            for row in binaries.read_cubin(path)
        ]
    else:
        print("no CUDA kernels: the extension has none and nvcc is not on PATH", file=sys.stderr)
        return []
    return [cuda_row(row) for row in raw]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, help="write the record here")
    parser.add_argument("--sources", action="store_true", help="compile csrc/ in any case")
    parser.add_argument("--sm", type=int, nargs="+", default=[80, 90, 100], choices=[80, 90, 100])
    parser.add_argument("--no-triton", action="store_true", help="leave the Triton kernels out")
    options = parser.parse_args(arguments)
    if not binaries.tool("cuobjdump"):
        print("cuobjdump is absent; pip install triton", file=sys.stderr)
        return 2
    rows = cuda_rows(options.sm, options.sources)
    rows += [] if options.no_triton else triton_rows()
    rows.sort(key=lambda row: (row["kernel"], row["variant"], row["sm"]))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"nvcc": binaries.nvcc_version(), "rows": rows}
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{table(rows)}\nLimits of a multiprocessor, 65,536 registers each:\n\n{limits()}")
    wrong = [(row, fault) for row in rows for fault in faults(row)]
    for row, fault in wrong:
        print(f"{row['kernel']}, {row['variant']}, sm_{row['sm']}: {fault}", file=sys.stderr)
    print(f"{len(rows)} kernels, {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
