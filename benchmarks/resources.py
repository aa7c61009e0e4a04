"""Registers, shared memory, stack and spills of every GPU kernel, without a GPU.

    python benchmarks/resources.py [--output FOLDER]

CUDA kernels are read out of tglo/_C.so with the cuobjdump that Triton's wheel brings; Triton kernels
are compiled ahead of time for sm_80, sm_90 and sm_100. Prints a table, writes resources.md and
resources.json, and ends with status 1 if a kernel has a stack, spills or float atomics.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # for the tests' list of Triton variants

COLUMNS = ("kernel", "variant", "sm", "registers", "shared", "stack", "local", "float_atomics")


def cuobjdump() -> str:
    """Return the tool's path, or "" without Triton."""
    spec = importlib.util.find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return ""
    path = Path(spec.submodule_search_locations[0]) / "backends/nvidia/bin/cuobjdump"
    return str(path) if path.exists() else ""


def _demangled(names: list[str]) -> list[str]:
    tool = shutil.which("c++filt")
    if not tool:
        return names
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True)
    return done.stdout.splitlines()


def cuda_kernels(library: str) -> list[dict[str, Any]]:
    """Return a row for each kernel and architecture in the extension; empty without CUDA kernels."""
    command = [cuobjdump(), "--dump-resource-usage", library]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    rows: list[dict[str, Any]] = []
    mangled, capability = [], 0
    for line in text.splitlines():
        if found := re.search(r"arch = sm_(\d+)", line):
            capability = int(found[1])
        if found := re.search(r"Function (\S+?):?$", line.strip()):
            mangled.append(found[1])
        if found := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            numbers = [int(number) for number in found.groups()]
            rows.append(
                {
                    "sm": capability,
                    "registers": numbers[0],
                    "stack": numbers[1],
                    "shared": numbers[2],
                    "local": numbers[3],
                    "float_atomics": 0,  # the sources have integer atomics only
                }
            )
    for row, name in zip(rows, _demangled(mangled), strict=True):
        found = re.search(r"(\w+)<([^(]*)>\(", name)
        row["kernel"] = f"CUDA {found[1] if found else name}"
        row["variant"] = found[2] if found else ""
    return rows


def triton_kernels() -> list[dict[str, Any]]:
    """Return a row for each variant of the losses' Triton kernels and each architecture."""
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
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [[str(row[column]) for column in COLUMNS] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("."))
    output: Path = parser.parse_args().output
    if not cuobjdump():
        print("triton is not installed; pip install triton", file=sys.stderr)
        return 2
    from tglo.ops import EXTENSION

    rows = cuda_kernels(EXTENSION.path) if EXTENSION.architectures else []
    rows += triton_kernels()
    rows.sort(key=lambda row: (row["kernel"], row["variant"], row["sm"]))
    output.mkdir(parents=True, exist_ok=True)
    (output / "resources.json").write_text(json.dumps(rows, indent=1) + "\n")
    (output / "resources.md").write_text(table(rows))
    print(table(rows))
    bad = [row for row in rows if row["stack"] or row["local"] or row["float_atomics"]]
    for row in bad:
        print(f"stack, spills or float atomics: {row}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
