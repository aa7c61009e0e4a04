"""The resources of the CUDA kernels in the installed extension; no GPU is needed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tglo.ops import EXTENSION


@pytest.fixture(scope="module")
def resources() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/resources.py"
    spec = importlib.util.spec_from_file_location("resources", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not EXTENSION.architectures, reason="the extension has no CUDA kernels")
def test_no_kernel_has_a_stack_or_spills(resources: ModuleType) -> None:
    if not resources.cuobjdump():
        pytest.skip("triton, which brings cuobjdump, is not installed")
    rows = resources.cuda_kernels(EXTENSION.path)
    assert {row["sm"] for row in rows} == set(EXTENSION.architectures)
    if shutil.which("c++filt"):
        names = {row["kernel"] for row in rows}
        assert {"CUDA forward", "CUDA backward", "CUDA loss_and_grad", "CUDA diffuse_rows"} <= names
        assert {"CUDA token_rows", "CUDA token_rows_gradient"} <= names
    for row in rows:
        assert row["stack"] == 0 and row["local"] == 0, row
        assert row["registers"] <= 128, row
