"""What the CUDA kernels take of a multiprocessor, and how they move memory; no GPU is needed.

The kernels are those of the extension, or, where it has none, those that nvcc makes of csrc/ for sm_90
(kept in build/resources until a source changes). `python -m benchmarks.resources` shows all of them.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.resources import binaries
from benchmarks.resources.judge import faults
from benchmarks.resources.kernels import HALVES, KERNELS, cuda_row, vector_loads
from tglo.ops import EXTENSION


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    if not binaries.tool("cuobjdump"):
        pytest.skip("triton, which brings cuobjdump, is not installed")
    if EXTENSION.architectures:
        found = [cuda_row(raw) for raw in binaries.read_extension(EXTENSION.path)]
        assert {row["sm"] for row in found} == set(EXTENSION.architectures)
        return found
    if not binaries.nvcc_version():
        pytest.skip("the extension has no CUDA kernels, and nvcc is not on PATH")
    paths = binaries.compile_sources([90])
    return [cuda_row(raw) for path in paths for raw in binaries.read_cubin(path)]


def test_no_kernel_has_a_stack_or_spills(rows: list[dict[str, Any]]) -> None:
    assert {row["kernel"].removeprefix("CUDA ") for row in rows} >= set(KERNELS)
    for row in rows:
        assert row["stack"] == 0 and row["local"] == 0 and row["float_atomics"] == 0, row
        assert 0 < row["threads"] <= 1024 and row["registers"] <= 128, row
        assert row["blocks"] >= 1, row


def test_the_main_loops_load_16_bytes_at_a_time(rows: list[dict[str, Any]]) -> None:
    """Those of each tensor are under way together."""
    seen = 0
    for row in rows:
        name = row["kernel"].removeprefix("CUDA ")
        if name == "loss.forward" or (name == "cluster.loss_and_grad" and row["sm"] >= 90):
            seen += 1
            main = max(row["loops"], key=lambda loop: loop["loads"])
            assert main["in_flight"] >= vector_loads(row), row
            if "masked" not in row["flags"]:  # the mask is loaded too
                assert main["loads"] % vector_loads(row) == 0, row
    assert seen >= 12


def test_half_precision_vectors_move_in_one_access(rows: list[dict[str, Any]]) -> None:
    assert {row["element"] for row in rows} >= set(HALVES)
    assert [(row["kernel"], row["variant"], row["sm"]) for row in rows if faults(row)] == []
