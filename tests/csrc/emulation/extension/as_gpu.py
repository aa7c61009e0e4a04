"""A pytest plugin with which tests for a GPU run on an emulated one: `pytest -p` this, in a process of its own.

What they put on "cuda" stays on the CPU. TGLO_EMULATED_EXTENSION is the extension. Streams, graphs and memory
statistics are torch's own and not emulated, so tests of those are not for it.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.csrc.emulation.extension.pretend import pretend


class OnCPU(TorchFunctionMode):
    """Whatever asks for "cuda" gets the CPU."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = dict(options or {})
        if function is Tensor.cuda:
            return arguments[0]
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = "cpu"
        if function is Tensor.to:
            arguments = ["cpu" if str(x).startswith("cuda") else x for x in arguments]
        return function(*arguments, **options)


pretend(os.environ["TGLO_EMULATED_EXTENSION"])
torch.cuda.is_available = lambda: True
torch.cuda.is_current_stream_capturing = lambda: False
torch.cuda.current_device = lambda: 0
torch.set_num_threads(1)
_mode = OnCPU()
_mode.__enter__()
