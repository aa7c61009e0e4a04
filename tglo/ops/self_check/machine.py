"""The GPU that a check is about: what it is called, whether kernels may be launched, waiting for them."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import torch

from tglo.ops.extension import EXTENSION

PATIENCE = 300.0
"""Seconds for launches that take microseconds: other work may hold the GPU meanwhile."""


class Card(NamedTuple):
    """A GPU and its driver."""

    name: str
    capability: str  # "9.0"
    identity: str  # of this very card
    driver: str


class Stuck(RuntimeError):
    """Kernels did not end."""


def present() -> bool:
    """Say whether this process has a GPU at all."""
    return torch.cuda.is_available()


def count() -> int:
    """Return how many GPUs there are."""
    return torch.cuda.device_count()


def current() -> int:
    """Return the index of the current GPU."""
    return torch.cuda.current_device()


def device(index: int) -> torch.device:
    """Return a GPU as the device of tensors."""
    return torch.device("cuda", index)


@cache
def card(index: int) -> Card:
    """Return what is known of a GPU."""
    found = torch.cuda.get_device_properties(index)
    capability = f"{found.major}.{found.minor}"
    return Card(found.name, capability, str(getattr(found, "uuid", "")), _driver())


def _driver() -> str:
    """Return the driver's version, or the one of CUDA that it serves; "" if neither is told."""
    with suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text()
        if match := re.search(r"\b\d+\.\d+(\.\d+)*\b", text):
            return match[0]
    return str(getattr(torch._C, "_cuda_getDriverVersion", str)())


@cache
def installation(backend: str) -> dict[str, str]:
    """Return what else the kernels of a backend depend on: versions, and a digest of their code and of
    what checks it.
    """
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = ""
    return {"torch": torch.__version__, "triton": triton, "code": _digest(backend)}


def _digest(backend: str) -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    if backend == "cuda":
        files.append(Path(EXTENSION.path))
    elif (kernels := util.find_spec("tglo.kernels")) and kernels.submodule_search_locations:
        for folder in kernels.submodule_search_locations:
            files += sorted(Path(folder).glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def may_launch(tensor: torch.Tensor | None = None) -> bool:
    """Say whether kernels can be launched and waited for now: not in a trace, not in a capture, not on
    tensors without memory.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack():
        return False
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    if fakes is not None and isinstance(tensor, fakes.FakeTensor):
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def wait(device: torch.device) -> None:
    """Wait for what was launched; raises what it left behind, or Stuck.

    Not by a synchronisation, which waits for a kernel that hangs for ever.
    """
    if device.type != "cuda":
        return
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    end = time.monotonic() + PATIENCE
    while not event.query():
        if time.monotonic() > end:
            raise Stuck(f"the kernels have not ended after {PATIENCE:.0f} seconds")
        time.sleep(5e-5)


def drain(device: torch.device) -> None:
    """Wait for what others have launched, however long that takes."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@contextmanager
def synchronising(device: torch.device) -> Iterator[None]:
    """Let the host wait for the GPU where torch.cuda.set_sync_debug_mode forbids it or warns of it."""
    mode = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    if mode:
        torch.cuda.set_sync_debug_mode(0)
    try:
        yield
    finally:
        if mode:
            torch.cuda.set_sync_debug_mode(mode)


def broken(device: torch.device) -> str:
    """Return the error that everything on the GPU now ends with, or ""."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def records() -> Path:
    """Return the folder of the records, which may not be there; RuntimeError for a user without a home."""
    if given := os.environ.get("TGLO_SELF_CHECK_FOLDER"):
        return Path(given)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "tglo" / "self_check"
