"""For a process that is started for it: tglo on an emulated GPU, whose tensors lie on the CPU.

`pretend` comes before the first import of tglo.ops. The emulated device is that of TGLO_EMULATED_DEVICE. With
TRITON_INTERPRET=1 Triton's kernels run there too, interpreted.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CAPABILITIES = {"h100": "9.0", "small90": "9.0", "a100": "8.0", "small80": "8.0", "rtx4090": "8.9"}
TRITON = {
    "tgo_loss": "loss",
    "tgo_loss_backward": "loss",
    "tgo_loss_and_grad": "loss",
    "prediction_error": "loss",
    "diffuse": "noise",
    "token_rows": "tokens",
    "token_rows_gradient": "tokens",
}


def pretend(extension: str | Path) -> None:
    """Load that extension in the place of tglo/_C.so, and let "auto" see a GPU where there are CPU tensors."""
    find_spec = importlib.util.find_spec

    def found(name: str, *arguments: Any) -> Any:
        own = name == "tglo._C"
        return SimpleNamespace(origin=str(extension)) if own else find_spec(name, *arguments)

    importlib.util.find_spec = found  # type: ignore[assignment]
    import torch

    from tglo.ops import EXTENSION, choice, library, token_chunks
    from tglo.ops.self_check import loss_cases, loss_forms, machine

    if os.environ.get("TRITON_INTERPRET") == "1":
        for name, file in TRITON.items():
            library._library.impl(f"{name}_triton", library._triton(name, file), "CPU")
    assert EXTENSION.loaded, EXTENSION.problem
    device = os.environ["TGLO_EMULATED_DEVICE"]
    card = machine.Card(f"emulated {device}", CAPABILITIES[device], "emulated", "580.65")
    choice._KERNELS = {"cpu": ("cuda", "triton")}
    loss_forms.cases = lambda: filter(_quick, loss_cases.cases())  # type: ignore[attr-defined]
    token_chunks.masked_positions = token_chunks.uncounted_positions  # as on a GPU
    machine.present = lambda: True
    machine.count = lambda: 1
    machine.device = lambda index: torch.device("cpu")
    machine.card = lambda index: card  # type: ignore[assignment]
    machine.broken = lambda device: _error(torch.ops.tglo._cuda_error(0))


def _quick(case: Any) -> bool:
    """Whether a case takes no seconds; the emulation's own cases have long rows."""
    return bool(case.predictions.policy_pred.numel() < 100_000)


def _error(number: int) -> str:
    return f"CUDA error {number}" if number else ""
