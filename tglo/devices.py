"""Devices and precisions by the names that configuration and flags use."""

from __future__ import annotations

import os

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; auto is CUDA if torch finds it. ValueError if it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f"device is {name!r}; use auto, cpu or cuda")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch finds no CUDA device; use cpu")
    return torch.device(name)


def process() -> tuple[int, int]:
    """Return this process's number and how many there are, as a launcher (torchrun) says; (0, 1)
    without one.
    """
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def process_device(name: str) -> torch.device:
    """Return the device called `name`; of several GPUs, the one that a launcher gave this process.

    A GPU becomes the current one. Errors are those of `choose_device`.
    """
    device = choose_device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.index is not None:
        torch.cuda.set_device(device)
    return device
