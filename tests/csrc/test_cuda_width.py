"""The width of the CUDA kernels' accesses, read out of code compiled here; no GPU is needed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
NVCC = shutil.which("nvcc") or ""


def cuobjdump() -> Path | None:
    spec = importlib.util.find_spec("triton")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "backends/nvidia/bin/cuobjdump"
    return path if path.exists() else None


def accesses(source: str, architecture: int, folder: Path) -> dict[str, list[str]]:
    """Return the global loads and stores of each kernel."""
    cubin, tool = folder / f"{architecture}.cubin", cuobjdump()
    command = [NVCC, "-std=c++20", "-O3", f"-arch=sm_{architecture}", "-cubin", f"-I{CSRC}"]
    subprocess.run([*command, str(CSRC / source), "-o", str(cubin)], check=True)
    dump = [str(tool), "--dump-sass", str(cubin)]
    text = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    kernels = re.split(r"Function : (\S+)", text)[1:]
    return {
        name: re.findall(r"\b((?:LDG|STG)\.[\w.]+)", code)
        for name, code in zip(kernels[::2], kernels[1::2], strict=True)
    }


@pytest.mark.skipif(not NVCC, reason="no nvcc")
@pytest.mark.skipif(cuobjdump() is None, reason="triton, which brings cuobjdump, is not installed")
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_aligned_rows_are_stored_16_bytes_at_a_time(architecture: int, tmp_path: Path) -> None:
    kernels = accesses("noise/noise.cu", architecture, tmp_path)
    aligned = {name: code for name, code in kernels.items() if "Lb1E" in name}
    assert len(aligned) == 3
    for name, code in aligned.items():
        stores = [access for access in code if access.startswith("STG")]
        assert stores and all(".128" in access for access in stores), (name, stores)
        wide = [access for access in code if access.startswith("LDG") and ".128" in access]
        assert len(wide) == len(stores), (name, code)
