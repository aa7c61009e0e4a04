"""What the manifest of a checkpoint says of the run, beside the files with its tensors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tglo.files import reading
from tglo.threshold.weights import Weighing

SECTIONS = ("model", "data", "objective", "optimizer", "engine")


@dataclass(frozen=True)
class SavedState:
    """A run after `step` updates. What is None was not kept by earlier versions."""

    step: int
    temperature: dict[str, float]
    engine: str
    world_size: int
    config: dict[str, Any]
    objective: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    """Digests of what it is trained on (same_data)."""
    order: str | None = None
    """Digest of what decides which samples a step has, as of now."""
    epoch: float | None = None
    """Epochs done."""
    shift: int = 0
    """Of Batches: from a step to its place in that order."""
    noise_floor: float | None = None
    weighing: dict[str, float | str] | None = None
    """How weights follow from scores (Weighing); None where the loss has them by itself."""

    def plain(self) -> dict[str, Any]:
        """Return JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, folder: Path, plain: dict[str, Any]) -> SavedState:
        """Return what `plain` made of a state; DamagedFile, also where the folder has another step."""
        with reading(folder, "checkpoint of a run", "resume from an older one"):
            state = msgspec.convert(plain, cls, strict=True)
            if state.step != int(folder.name.removeprefix("step-")):
                raise ValueError(f"it says step {state.step}")
            numbers = [state.temperature[name] for name in ("value", "square", "seen")]
            if not all(map(math.isfinite, numbers)) or state.temperature["value"] <= 0:
                raise ValueError(f"its temperature is {state.temperature}")
            if not all(isinstance(state.config[name], dict) for name in SECTIONS):
                raise ValueError("its configuration lacks a section")
            if state.weighing is not None:
                Weighing.parse(state.weighing)
            if not isinstance(state.config["seed"], int):
                raise ValueError("its configuration has no seed")
            return state
