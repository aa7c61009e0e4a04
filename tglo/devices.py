"""Devices and precisions by the names that configuration and flags use."""

from __future__ import annotations

import os
import re

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, key: str = "device") -> torch.device:
    """Return the device called `name`; auto is CUDA if torch finds it. ValueError if it is absent.

    key: what the caller's user calls it.
    """
    check_device_name(name, key)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{key} is {name!r}, but torch finds no CUDA device; use cpu")
    if device.index is not None and device.index >= (count := torch.cuda.device_count()):
        raise ValueError(f"{key} is {name!r}, but the last of {count} is cuda:{count - 1}")
    return device


def check_device_name(name: str, key: str = "device") -> None:
    """Raise ValueError, without a look at this machine, for a name that no device has."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ValueError(f"{key} is {name!r}; use auto, cpu or cuda")


def process() -> tuple[int, int]:
    """Return this process's number and how many there are, as a launcher (torchrun) says; (0, 1)
    without one. ValueError for what no launcher would say.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world_size = map(int, texts)
    except ValueError:
        rank, world_size = -1, 0
    if not 0 <= rank < world_size:
        raise ValueError(
            f"RANK is {texts[0]!r} and WORLD_SIZE {texts[1]!r}; they must be whole numbers, RANK from 0 to "
            "WORLD_SIZE - 1. Leave both to the launcher, or unset them for one process"
        )
    return rank, world_size


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
