"""What a kernel's resources must not be."""

from __future__ import annotations

from typing import Any

from benchmarks.resources.kernels import HALVES, KERNELS, vector_loads


def faults(row: dict[str, Any]) -> list[str]:
    """Say what is wrong with a row, in a few words each.

    The odd path, for rows whose ends or addresses are not multiples of 16 bytes, moves an element at a
    time. Most kernels contain it beside the aligned path, so accesses of one element prove nothing; but
    only the compiler makes accesses of 4 or 8 bytes out of an aligned vector of 16-bit numbers.
    """
    found = []
    for what in ("stack", "local", "float_atomics"):
        if row[what]:
            found.append(f"{what.replace('_', ' ')}: {row[what]}")
    if _empty(row) or _odd_only(row) or row.get("element") not in HALVES:
        return found
    if row["split_stores"]:
        found.append(f"{row['split_stores']} vectors are stored in pieces")
    if row["split_loads"] and "masked" not in row.get("flags", ()):  # the mask's are of float32
        found.append(f"{row['split_loads']} vectors are loaded in pieces")
    kernel = KERNELS.get(row["kernel"].removeprefix("CUDA "))
    if kernel is None:
        return found
    if kernel.writes and not wide(row["stores"]):
        found.append("no store is 16 bytes wide")
    if wide(row["loads"]) < vector_loads(row):
        found.append(
            f"{wide(row['loads'])} loads are 16 bytes wide, {vector_loads(row)} are needed"
        )
    if "aligned" in row["flags"] and any(row[way].get("16") for way in ("loads", "stores")):
        found.append("an aligned kernel moves single elements")
    return found


def wide(widths: dict[str, int]) -> int:
    """Count the accesses of 16 bytes and more."""
    return sum(count for bits, count in widths.items() if int(bits) >= 128)


def _empty(row: dict[str, Any]) -> bool:
    """A cluster kernel's body exists from sm_90 on."""
    return row["kernel"] == "CUDA cluster.loss_and_grad" and row["sm"] < 90


def _odd_only(row: dict[str, Any]) -> bool:
    kernel = KERNELS.get(row["kernel"].removeprefix("CUDA "))
    return kernel is not None and "aligned" in kernel.flags and "aligned" not in row["flags"]
