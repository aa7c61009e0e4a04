"""What the model needs of the kernels' machine code, for bfloat16 predictions without a mask."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.page import RESULTS
from benchmarks.resources import binaries
from benchmarks.resources.kernels import cuda_row
from benchmarks.resources.occupancy import occupancy

RECORD = RESULTS / "resources" / "kernels.json"
KEYS = ("kernel", "element", "flags", "sm", "threads", "registers", "shared", "loads", "stores")
VARIANTS = (
    ("loss.forward", ("reference",)),
    ("loss.forward", ()),
    ("loss.backward", ()),
    ("cluster.loss_and_grad", ("reference",)),
    ("cluster.loss_and_grad", ()),
    ("cooperative.loss_and_grad", ("reference",)),
    ("cooperative.loss_and_grad", ()),
    ("noise.diffuse_rows", ("aligned",)),
    ("tokens.token_rows", ("aligned",)),
    ("tokens.token_rows_gradient", ("aligned",)),
)


class Loop(NamedTuple):
    """A loop over vectors of eight elements."""

    vectors: int  # that a thread takes at once
    in_flight: int  # 16-byte loads
    instructions: float  # a vector


class Code(NamedTuple):
    """A kernel's machine code on one architecture."""

    threads: int
    registers: int
    shared: int
    sums: tuple[Loop, ...]  # the loops that only load, the one with most loads first
    gradient: Loop | None  # the loop that stores too
    store_bytes: int  # width of a prediction's stores

    def resident(self, capability: int, dynamic: int = 0) -> int:
        """Return the blocks that a multiprocessor holds."""
        return occupancy(capability, self.threads, self.registers, self.shared + dynamic).blocks


def wanted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that predictions need, with what they need of them."""
    found = [
        {key: row[key] for key in (*KEYS, "split_stores", "loops")}
        for row in rows
        if row["element"] in ("bf16", "")
        and (row["kernel"].removeprefix("CUDA "), tuple(row["flags"])) in VARIANTS
    ]
    return sorted(found, key=lambda row: (row["kernel"], row["flags"], row["sm"]))


def compiled(architectures: Iterable[int]) -> list[dict[str, Any]]:
    """Compile csrc/ and return the rows that predictions need."""
    paths = binaries.compile_sources(list(architectures))
    return wanted(cuda_row(raw) for path in paths for raw in binaries.read_cubin(path))


def write(path: Path = RECORD) -> None:
    """Compile csrc/ and keep what predictions need."""
    lines = ",\n".join(json.dumps(row) for row in compiled((80, 90)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"nvcc": {json.dumps(binaries.nvcc_version())}, "rows": [\n{lines}\n]}}\n')


def read(path: Path = RECORD) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def code_of(rows: Iterable[dict[str, Any]], sm: int) -> dict[tuple[str, bool], Code]:
    """Return the kernels of an architecture by name and whether they read a reference."""
    found = {}
    for row in rows:
        if row["sm"] == sm and (row["loops"] or "cluster" not in row["kernel"]):
            name = row["kernel"].removeprefix("CUDA ")
            found[name, "reference" in row["flags"]] = _code(name, row)
    return found


def _code(name: str, row: dict[str, Any]) -> Code:
    tensors = 2 + ("reference" in row["flags"]) if "loss" in name else 1
    both = 2 * (
        2 if name.startswith("tokens.") else 1
    )  # two tensors, or one of float32 with a bias
    loops = [loop for loop in row["loops"] if loop["loads"]]
    stored = bool(row["split_stores"] or row["stores"].get("128"))
    sums, gradient = [], None
    for number, loop in enumerate(loops):
        # The cooperative kernel's last loop, and the only one of kernels without sums, stores as well.
        stores = stored and (
            loop["stores"] > 0
            or name in ("loss.backward", "noise.diffuse_rows", "tokens.token_rows_gradient")
            or (name.startswith("cooperative") and number == len(loops) - 1)
        )
        loads = 1 if name.startswith("noise") else both if stores or "tokens" in name else tensors
        vectors = max(1, loop["loads"] // loads)
        made = Loop(vectors, loop["in_flight"], loop["instructions"] / vectors)
        if stores:
            gradient = made
        else:
            sums.append(made)
    sums.sort(key=lambda loop: -loop.in_flight)
    narrow = min((int(bits) for bits in row["stores"] if int(bits) >= 32), default=128)
    width = narrow // 8 if row["split_stores"] else 16
    return Code(row["threads"], row["registers"], row["shared"], tuple(sums), gradient, width)
