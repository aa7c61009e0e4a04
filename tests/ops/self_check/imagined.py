"""A GPU that is not there: tensors lie on the CPU, whose kernels stand in for CUDA's and Triton's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.loss_cases import make_case
from tglo import ops, tgo_loss
from tglo.ops import choice, library
from tglo.ops.self_check import loss_forms, machine, verdicts

FORMS = len(list(loss_forms.forms()))
OPERATORS = ("tgo_loss", "tgo_loss_backward", "tgo_loss_and_grad", "prediction_error")


class ImaginedGPU:
    """What the GPU is called, what is wrong with its kernels, and what was launched to check them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.card = machine.Card("Imagined H100", "9.0", "GPU-1", "580.65")
        self.faults: dict[str, Any] = {}
        """Backend -> what is done to the outputs of its checks: a function of their list."""
        self.launched: list[str] = []
        """The backend of each operator that a check called."""
        self.monkeypatch, self.folder = monkeypatch, folder

    def operator(self, name: str, triton: bool = False) -> Any:
        """In place of `library.operator` in the checks of the loss."""
        backend = "triton" if triton else "cuda"

        def run(*arguments: Any) -> Any:
            self.launched.append(backend)
            found = library.operator(name)(*arguments)
            if backend not in self.faults or found is None:  # what is written in place
                return found
            outputs = [found] if isinstance(found, Tensor) else list(found)
            self.faults[backend](outputs)
            return outputs[0] if isinstance(found, Tensor) else tuple(outputs)

        return run

    def forget(self) -> None:
        """Know what a new process knows."""
        for known in (verdicts.trusted, verdicts._verdicts, choice._chosen):
            known.clear()
        choice._announced.clear()
        choice._told.clear()
        self.launched.clear()

    def records(self) -> list[Path]:
        return sorted(self.folder.glob("*"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ImaginedGPU]:
    if not ops.EXTENSION.loaded:
        pytest.skip(f"no CPU kernels: {ops.EXTENSION.problem}")
    found = ImaginedGPU(monkeypatch, tmp_path / "records")
    monkeypatch.setenv("TGLO_SELF_CHECK_FOLDER", str(found.folder))
    monkeypatch.delenv("TGLO_SELF_CHECK", raising=False)
    monkeypatch.setattr(choice, "_forced", "auto")
    monkeypatch.setattr(choice, "_KERNELS", {"cpu": ("cuda", "triton")})
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(choice, "EXTENSION", ops.EXTENSION._replace(architectures=(90,)))
    monkeypatch.setattr(choice, "_device_problems", {0: ""})
    monkeypatch.setattr(machine, "present", lambda: True)
    monkeypatch.setattr(machine, "count", lambda: 1)
    monkeypatch.setattr(machine, "device", lambda index: torch.device("cpu"))
    monkeypatch.setattr(machine, "card", lambda index: found.card)
    monkeypatch.setattr(loss_forms, "operator", found.operator)
    stand_in = torch.library.Library("tglo", "IMPL")
    for name in OPERATORS:
        stand_in.impl(f"{name}_triton", library.operator(name), "CPU")
    found.forget()
    yield found
    found.forget()
    stand_in._destroy()


def loss_of(**options: Any) -> Tensor:
    """A loss of which auto chooses the backend."""
    return make_case((4, 100), torch.float32).call(tgo_loss, **options)  # type: ignore[no-any-return]


def chosen() -> str:
    return ops.backend_for("tgo_loss", "cpu", torch.bfloat16)


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "tglo" and r.levelno == level]


def halved(outputs: list[Tensor]) -> None:
    """A fault that an average would not show: half of the first output's last row is missing."""
    last = outputs[{1: 0, 3: 1, 4: 3}[len(outputs)]]  # an error, coefficients, a gradient
    last[-1 if last[-1].abs().any() else 0] *= 0.5
