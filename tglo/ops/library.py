"""The operators of torch.ops.tglo: each is defined once, beside its shapes and its gradient.

They exist with or without tglo/_C.so, which adds CPU and CUDA implementations to them. The Triton
kernels implement operators of their own, `<name>_triton`, so that both can be at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("tglo", "DEF")
_library.define("_philox(Tensor counter, int key0, int key1) -> Tensor")  # of the C++ header
_library.define("_extension_version() -> int")
_library.define("_cpu_instructions() -> int")
_library.define("_cuda_architectures() -> int[]")  # 90 is sm_90; empty: no CUDA kernels
_library.define("_cuda_error(int device) -> int")  # 0 if the kernels run there

# Overloads looked up once: a call through torch.ops asks for them each time.
_OPERATORS: dict[str, Any] = {}


def define(
    name: str, schema: str, file: str | None, fake: Callable[..., Any] | None = None
) -> None:
    """Define an operator for the extension and, with a file, one for Triton: the function of the same
    name in kernels/FILE.py; fake makes empty results on the meta device.
    """
    _add(name, schema, fake)
    if file is not None:
        _add(f"{name}_triton", schema, fake)
        _library.impl(f"{name}_triton", _triton(name, file), "CUDA")


def implement(
    name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any] | None = None
) -> None:
    """Define an operator that is Python on every device."""
    _add(name, schema, fake)
    _library.impl(name, run, "CompositeExplicitAutograd")


def operator(name: str, triton: bool = False) -> Any:
    """Return the operator of that name: Triton's, or the extension's."""
    return _OPERATORS[f"{name}_triton" if triton else name]


def _add(name: str, schema: str, fake: Callable[..., Any] | None) -> None:
    _library.define(name + schema)
    if fake is not None:
        torch.library.register_fake(f"tglo::{name}")(fake)
    _OPERATORS[name] = getattr(torch.ops.tglo, name).default


def _triton(name: str, file: str) -> Callable[..., Any]:
    """Return the function of that name in a file under kernels/, which its first call imports."""

    def run(*arguments: Any) -> Any:
        from importlib import import_module

        return getattr(import_module(f"tglo.kernels.{file}"), name)(*arguments)

    return run
