"""Builds an extension in which the CUDA kernels, emulated, are those for CPU tensors.

The bindings are the package's own but for three things: they register for CPU tensors, do not ask whether
tensors are on a GPU, and launch on the null stream of device 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from tests.csrc.emulation.build import Build, default_folder

HERE = Path(__file__).parent
BINDINGS = ("loss_cuda.cpp", "noise_cuda.cpp", "tokens_cuda.cpp")
_CHANGES = (
    (r"STABLE_TORCH_LIBRARY_IMPL\(tglo, CUDA, m\)", "STABLE_TORCH_LIBRARY_IMPL(tglo, CPU, m)"),
    (r"\b\w+\.is_cuda\(\)", "true"),
    (r"\b\w+\.get_device_index\(\)", "0"),
    (r"\bcurrent_stream\([\w.]+\)", "nullptr"),
)
Change = Callable[[str, str], str]


def for_cpu_tensors(name: str, text: str) -> str:
    """A file of csrc/ as the emulated extension has it."""
    if Path(name).name in BINDINGS:
        for pattern, replacement in _CHANGES:
            text = re.sub(pattern, replacement, text)
    return text


def build_extension(change: Change = lambda name, text: text, name: str = "plain") -> Path:
    """Return the extension, with whatever `change(name, text)` plants into the sources."""

    def both(file: str, text: str) -> str:
        return for_cpu_tensors(file, change(file, text))

    root = Path(torch.__file__).parent
    build = Build(default_folder(), change=both, tree=f"extension-{name}")
    torch_flags = (
        f"-isystem{root}/include",
        "-DTORCH_TARGET_VERSION=0x020b000000000000ULL",
        "-Wno-unused-parameter",
    )
    objects = build.kernels()
    tree = build.folder / build.tree
    bindings = [tree / "bindings" / file for file in BINDINGS]
    objects += build.compile([*bindings, HERE / "facts.cpp"], torch_flags, emulated=False)
    libraries = [f"-L{root}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
    return build.link(objects, build.folder / f"extension-{name}.so", ["-shared", *libraries])
