"""Loads tglo/_C.so, whose kernels register themselves with the operators of tglo/ops/library.py."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch

from tglo.console import shadowing
from tglo.ops import library  # noqa: F401  (defines what the extension is asked)

INTERFACE_VERSION = 6
"""Counterpart of `interface_version` in csrc/common/launch.h."""

REINSTALL = (
    "reinstall tglo, on Linux and without TGLO_NO_EXTENSION: "
    "pip install --no-deps --force-reinstall --no-cache-dir ."
)
REINSTALL_WITH_CUDA = (
    "put nvcc 12.8 or later on PATH and reinstall tglo: "
    "TGLO_CUDA=ON pip install --no-deps --force-reinstall --no-cache-dir ."
)


class Extension(NamedTuple):
    """The extension, or why there is none. `problem` and `remedy` are empty when it is loaded."""

    loaded: bool
    path: str
    instructions: str  # "AVX2" or "baseline"
    architectures: tuple[int, ...]  # of the CUDA kernels, 90 for sm_90; empty without any
    problem: str
    remedy: str


def load() -> Extension:
    """Load the extension; never raises, because every operator also runs on plain PyTorch."""
    spec = importlib.util.find_spec("tglo._C")
    if spec is None or spec.origin is None:
        if hidden := shadowing.problem():
            return Extension(False, "", "", (), hidden, shadowing.REMEDY)
        return Extension(False, "", "", (), "tglo/_C.so was not built", REINSTALL)
    path = spec.origin
    try:
        torch.ops.load_library(path)
        version = torch.ops.tglo._extension_version()
        architectures = tuple(torch.ops.tglo._cuda_architectures())
        instructions = "AVX2" if torch.ops.tglo._cpu_instructions() else "baseline"
    except (OSError, RuntimeError, NotImplementedError) as error:
        line = str(error).strip().splitlines()[0]
        return Extension(False, path, "", (), f"{path} does not load: {line}", REINSTALL)
    if version != INTERFACE_VERSION:
        problem = f"{path} has interface {version}, this tglo needs {INTERFACE_VERSION}"
        return Extension(False, path, "", (), problem, REINSTALL)
    return Extension(True, path, instructions, architectures, "", "")


EXTENSION = load()
