"""Torches and compilers that have what the build looks at, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "csrc/packaging"


def load(name: str) -> ModuleType:
    """Import a module of csrc/packaging, which is no package that is installed."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def fake_torch(
    site: Path, *, version: str = "2.13", cuda: str | None = None, stable: bool = True
) -> Path:
    """Write the files of a torch that the build reads below `site`, and return its include folder."""
    include = site / "torch/include"
    (include / "torch/headeronly").mkdir(parents=True)
    major, minor = version.split(".")
    (include / "torch/headeronly/version.h").write_text(
        f"#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n"
    )
    if stable:
        (include / "torch/csrc/stable").mkdir(parents=True)
        (include / "torch/csrc/stable/ops.h").touch()
    (site / "torch/__init__.py").write_text("raise ImportError('torch is located, not imported')")
    (site / "torch/version.py").write_text(
        f"__version__ = '{version}.0'\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = '7.0'\n"
    )
    return include


def fake_nvcc(folder: Path, release: str = "13.0") -> Path:
    """Write a program that states its version like nvcc, and return its folder."""
    folder.mkdir(parents=True)
    program = folder / "nvcc"
    program.write_text(
        f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n"
    )
    program.chmod(0o755)
    return folder
