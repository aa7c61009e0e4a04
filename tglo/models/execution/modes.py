"""Train and eval mode of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is back in the mode it had."""
    modes = [(m, m.training) for m in module.modules()] if isinstance(module, nn.Module) else []
    try:
        for submodule, _ in modes:
            submodule.training = False
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode
