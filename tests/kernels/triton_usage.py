"""Compiles a Triton kernel ahead of time, without a GPU, and counts what it takes of one. Needs a
process without TRITON_INTERPRET.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from typing import Any

import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from benchmarks.resources import sass
from benchmarks.resources.judge import wide
from benchmarks.resources.kernels import code_figures

TOOLS = os.path.join(os.path.dirname(triton.backends.nvidia.__file__), "bin")


def usage(
    kernel: Any,
    element: str,
    capability: int,
    types: dict[str, str],
    constants: dict[str, Any],
    options: dict[str, Any],
    aligned: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Registers, stack, spills and the like. `types` are those of parameters that are neither constants
    nor annotated nor int32; pointers, and what is named in `aligned`, are multiples of 16.
    """
    signature = {}
    for parameter in kernel.params:
        name = parameter.name
        if name in constants or parameter.is_constexpr:
            signature[name] = "constexpr"
        else:
            signature[name] = types.get(name) or parameter.annotation_type or "i32"
    multiples = [i for i, (n, t) in enumerate(signature.items()) if t[0] == "*" or n in aligned]
    attributes = {(i,): [["tt.divisibility", 16]] for i in multiples}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    binary = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()

        def dumped(flag: str) -> str:
            command = [os.path.join(TOOLS, "cuobjdump"), flag, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        resources = dumped("--dump-resource-usage")
        (code,) = sass.functions(dumped("--dump-sass")).values()

    figures = code_figures(code, 0)

    def resource(name: str) -> int:
        found = re.search(rf"{name}:(\d+)", resources)
        assert found is not None, resources
        return int(found[1])

    return {
        "kernel": kernel.__name__,
        "element": element,
        "sm": capability,
        "variant": "-".join(sorted(n for n, v in constants.items() if v is None)) or "all inputs",
        "shared": binary.metadata.shared,
        "threads": 32 * binary.metadata.num_warps,
        "registers": resource("REG"),
        "stack": resource("STACK"),
        "local": sass.local_accesses(code),
        **figures,
        "wide_loads": wide(figures["loads"]),
    }
