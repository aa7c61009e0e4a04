"""The loss scale of fp16 in a checkpoint: PyTorch's GradScaler and DeepSpeed's count it in ways of their own, and each
resumes exactly from its own, and from the other's with the scale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tglo.train import stored

FILE = "scaler.json"
DEEPSPEED = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's scalers count, each some of it."""


def of_deepspeed(scaler: Any) -> str:
    """Return the text of the file for DeepSpeed's scaler; None where there is none."""
    found = {name: getattr(scaler, name) for name in DEEPSPEED if hasattr(scaler, name)}
    return json.dumps(found)


def read(folder: Path) -> dict[str, float]:
    """Read the file; DamagedFile, OSError. Empty of another precision than fp16."""
    return stored.read_scalars(folder / FILE)


def check(folder: Path) -> None:
    """Raise DamagedFile or OSError unless the file is one of an engine."""
    scale = read(folder)
    if not scale:
        return
    path = folder / FILE
    if "cur_scale" in scale:
        stored.check_names(path, scale.keys() - {"cur_hysteresis"}, DEEPSPEED[:-1])
    else:
        stored.check_names(path, scale, torch.amp.GradScaler("cpu", enabled=True).state_dict())
    if not all(type(value) in (int, float) for value in scale.values()):
        raise stored.damaged(path, "a value is no number")


def restore_scaler(scaler: torch.amp.GradScaler, scale: dict[str, float]) -> None:
    """Let PyTorch's scaler resume from what was read."""
    if "cur_scale" in scale:
        scaler.load_state_dict({**scaler.state_dict(), "scale": float(scale["cur_scale"])})
    elif scale:
        scaler.load_state_dict(scale)


def restore_deepspeed(scaler: Any, scale: dict[str, float]) -> None:
    """Let DeepSpeed's scaler resume from what was read."""
    if "scale" in scale:
        scaler.cur_scale = float(scale["scale"])
    for name in DEEPSPEED:
        if name in scale and hasattr(scaler, name):
            setattr(scaler, name, scale[name])
