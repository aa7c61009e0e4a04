"""The files of DeepSpeed's checkpoints: written without leaving other ranks waiting, checked before they
are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tglo.files import flush, reading
from tglo.train import stored


def read_shapes(name: str) -> tuple[Path, dict[str, Any]]:
    """Read one of DeepSpeed's files, its tensors without their values."""
    path = Path(name)
    with reading(path, stored.KIND, stored.REMEDY):
        return path, dict(torch.load(path, map_location="meta", weights_only=False))


def check_tree(path: Path, name: str, found: Any, wanted: Any) -> None:
    """Raise DamagedFile unless every tensor in nested dicts and lists is there in the same form."""
    if isinstance(wanted, Tensor):
        if not isinstance(found, Tensor):
            raise stored.damaged(path, f"{name} is no tensor")
        stored.check_form(path, name, stored.form(found), stored.form(wanted))
    elif isinstance(wanted, (dict, list, tuple)):
        if not isinstance(found, type(wanted)) or len(found) < len(wanted):
            raise stored.damaged(path, f"{name} has another form")
        for key, value in wanted.items() if isinstance(wanted, dict) else enumerate(wanted):
            if isinstance(found, dict) and key not in found:
                raise stored.damaged(path, f"it has no {name}/{key}")
            check_tree(path, f"{name}/{key}", found[key], value)


@contextmanager
def put_off(owner: Any, method: str) -> Iterator[list[Exception]]:
    """Collect what a method raises, inside the block, instead of raising it."""
    work, failed = getattr(owner, method), list[Exception]()

    def try_it(*arguments: Any, **named: Any) -> None:
        try:
            work(*arguments, **named)
        except Exception as error:
            failed.append(error)

    setattr(owner, method, try_it)
    try:
        yield failed
    finally:
        delattr(owner, method)


def raise_if_full(folder: Path, error: Exception) -> None:
    """Raise OSError if there is no space left: torch's writer tells that something failed, not what."""
    if isinstance(error, RuntimeError):
        probe = folder / "probe"
        try:
            probe.write_bytes(bytes(2**20))
            flush(probe)
        finally:
            probe.unlink(missing_ok=True)
