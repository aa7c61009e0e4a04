"""Folders of runs as training writes them, made without one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PARTS = ("data", "reference", "policy", "loss", "backward", "update")


def line(step: int, **values: Any) -> dict[str, Any]:
    """A healthy line of metrics.jsonl."""
    return {
        "step": step,
        "epoch": step / 100,
        "loss": 2.0,
        "r_positive": 0.5,
        "r_negative": -0.6,
        "implicit_accuracy": 0.7,
        "saturated": 0.01,
        "policy_error": 0.16,
        "reference_error": 0.15,
        "weight": 5.0,
        "positive_share": 0.5,
        "gradient_norm": 1.0,
        "learning_rate": 1e-4,
        "temperature": 0.03,
        "samples_per_second": 40.0,
        **{f"seconds/{part}": 0.01 if part == "data" else 0.1 for part in PARTS},
        **values,
    }


def config(**tables: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, dict[str, Any]] = {
        "model": {"path": "/models/sdxl", "train": "lora"},
        "objective": {"name": "tgo"},
        "optimizer": {"steps": 1000, "learning_rate": 1e-4, "micro_batch": 4, "accumulation": 1,
                      "max_gradient_norm": 1.0},
        "output": {"log_every": 10, "export": True, "validation_prompts": ["a temple", "a flower"]},
    }  # fmt: skip
    for name, values in tables.items():
        made[name] |= values
    return made


def make_run(folder: Path, lines: list[dict[str, Any]] | None = None, **tables: Any) -> Path:
    """A run's folder with its configuration and, unless None, lines of metrics."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(**tables)))
    (folder / ".lock").touch()
    if lines is not None:
        append(folder, lines)
    return folder


def append(folder: Path, lines: list[dict[str, Any]]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in lines)


def add_samples(folder: Path, step: int, count: int = 2) -> Path:
    """Validation images of a step, each of one colour."""
    place = folder / "samples" / f"step-{step:08d}"
    place.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((16, 16, 3), (step % 256, 80 * number, 90), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return place


def age(folder: Path, seconds: float) -> None:
    """Let metrics.jsonl be that old."""
    then = time.time() - seconds
    os.utime(folder / "metrics.jsonl", (then, then))
