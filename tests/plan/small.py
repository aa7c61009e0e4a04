"""A model of a few million weights and the cases in which its states are weighed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tglo.train.config import TrainConfig
from tglo.train.config_files import parse_config

WIDTH, DEPTH = 768, 6


@dataclass(frozen=True)
class Case:
    """One way of training the small model."""

    stage: int | None
    precision: str
    train: str
    accumulation: int = 1


CASES = [
    *(Case(stage, precision, "full") for precision in ("bf16", "fp32") for stage in range(4)),
    *(Case(stage, "bf16", "part") for stage in (0, 3)),
    Case(1, "bf16", "full", accumulation=2),
]


def small_model(train: str) -> nn.Sequential:
    """3.6 million weights; part: only those of the last layer are trained, as with a LoRA."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)]
    model = nn.Sequential(*layers)
    if train == "part":
        model[:-2].requires_grad_(False)
    return model


def case_config(case: Case) -> TrainConfig:
    """The engine's settings; nothing else of it is used."""
    engine = {"kind": "plain", "device": "cpu", "precision": case.precision}
    if case.stage is not None:
        engine |= {"kind": "deepspeed", "zero_stage": case.stage}
    return parse_config(
        {"engine": engine, "optimizer": {"micro_batch": 2, "accumulation": case.accumulation}}
    )
