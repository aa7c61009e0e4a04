"""The rows of the table: a kernel's variant on an architecture, with what its machine code says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.resources import sass
from benchmarks.resources.occupancy import occupancy

ELEMENTS = {"f": "fp32", "6__half": "fp16", "13__nv_bfloat16": "bf16"}
HALVES = ("bf16", "fp16")


class Kernel(NamedTuple):
    """What the numbers of a CUDA kernel in csrc/ are compared with."""

    reads: int  # tensors of predictions that its main loop reads, without the reference
    writes: bool  # predictions
    flags: tuple[str, ...]  # its template's Booleans
    reads_fp32: bool = False  # whatever it writes


KERNELS = {
    "loss.forward": Kernel(2, False, ("reference", "masked")),
    "loss.backward": Kernel(2, True, ("masked",)),
    "cluster.loss_and_grad": Kernel(2, True, ("reference", "masked")),
    "cooperative.loss_and_grad": Kernel(2, True, ("reference", "masked")),
    "noise.diffuse_rows": Kernel(1, True, ("aligned",)),
    "tokens.token_rows": Kernel(1, False, ("aligned",), reads_fp32=True),
    "tokens.token_rows_gradient": Kernel(1, True, ("aligned",), reads_fp32=True),
}
"""By file and name; a kernel that is not here is judged by its stack, its spills and split stores."""


def parse_name(mangled: str) -> tuple[str, str, tuple[str, ...]]:
    """Return file.kernel, element type ("" without one) and the Booleans that are true."""
    # The digests before and behind a file's name may be digits alone.
    found = re.search(r"_N__[0-9a-f]{8}_\d+_(\w+)_cu_[0-9a-f]{8}(\d+)(\w+)", mangled)
    if not found:
        return mangled, "", ()
    length = int(found[2])
    name, rest = f"{found[1]}.{found[3][:length]}", found[3][length:]
    arguments = re.match(r"I(.*?)EEv", rest + "EEv")
    text = arguments[1] if arguments and rest.startswith("I") else ""
    element = next((ELEMENTS[code] for code in sorted(ELEMENTS) if text.startswith(code)), "")
    values = re.findall(r"Lb([01])", text)
    names = KERNELS[name].flags if name in KERNELS else ()
    names += tuple(f"flag {n}" for n in range(len(names), len(values)))
    true = tuple(flag for flag, value in zip(names, values, strict=False) if value == "1")
    return name, element, true


def cuda_row(raw: dict[str, Any]) -> dict[str, Any]:
    """Turn what `binaries.read_cubin` returned into a row."""
    name, element, flags = parse_name(raw["name"])
    row = {
        "kernel": f"CUDA {name}",
        "element": element,
        "flags": list(flags),
        "variant": ", ".join([element, *flags] if element else flags),
        **{key: raw[key] for key in ("sm", "threads", "registers", "shared", "stack", "local")},
    }
    row["local"] = max(row["local"], sass.local_accesses(raw["code"]))
    return row | code_figures(raw["code"], vector_loads(row)) | fitting(row)


def vector_loads(row: dict[str, Any]) -> int:
    """Return the 16-byte loads that one vector of eight elements takes, or 0 if that is not known."""
    kernel = KERNELS.get(row["kernel"].removeprefix("CUDA "))
    if kernel is None:
        return 0
    tensors = kernel.reads + ("reference" in row["flags"])
    return tensors * (2 if row["element"] == "fp32" or kernel.reads_fp32 else 1)


def code_figures(code: Sequence[sass.Instruction], loads: int) -> dict[str, Any]:
    """Count accesses and loops; `loads`: of one vector, 0 if unknown."""
    loops = sass.loops(code)
    reading = [loop for loop in loops if loop.loads]
    main = max(reading, key=lambda loop: loop.loads, default=None)
    per_vector = main.instructions * loads / main.loads if main and loads else None
    return {
        "loads": {str(8 * size): count for size, count in sass.widths(code, "LDG").items()},
        "stores": {str(8 * size): count for size, count in sass.widths(code, "STG").items()},
        "split_loads": sass.split_vectors(code, "LDG", (4,)),
        "split_stores": sass.split_vectors(code, "STG", (4, 8)),
        "instructions_per_vector": per_vector and round(per_vector),
        "in_flight": main.in_flight if main else sass.in_flight(code),
        "float_atomics": sass.float_atomics(code),
        "loops": [loop._asdict() for loop in loops],
    }


def fitting(row: dict[str, Any]) -> dict[str, Any]:
    """Return occupancy, or nothing for a kernel without launch bounds."""
    if not row["threads"]:
        return {"blocks": None, "warps": None, "limit": None}
    return occupancy(row["sm"], row["threads"], row["registers"], row["shared"])._asdict()


def triton_rows() -> list[dict[str, Any]]:
    """Return a row for each variant of the Triton kernels that the tests compile."""
    from tests.kernels import test_loss_triton, test_tokens_triton

    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "0"}
    rows = []
    for code in (test_loss_triton.COMPILE, test_tokens_triton.COMPILE):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr)
        rows += [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        row["kernel"] = f"Triton {row['kernel']}"
        row["variant"] = f"{row['element']}, {row['variant']}"
        row |= fitting(row)
    return rows
