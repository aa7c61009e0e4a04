"""Makes every Python of a rehearsal as poor as the one on a GPU machine may be, and names a GPU.

Python imports this by its name where it is first on PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

ABSENT = set(os.environ.get("REHEARSE_WITHOUT", "").split())
"""Top-level packages that are not found."""


class Poor(PathFinder):
    """Finds what is on sys.path, but for some packages."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.split(".")[0] in ABSENT:
            return None
        spec = super().find_spec(name, path, target)
        if name == "torch" and spec is not None and spec.loader is not None:
            spec.loader.exec_module = _with_a_gpu(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _with_a_gpu(execute: Any) -> Any:
    """Let torch answer the script's first question; is_available() stays False, so no more are asked."""

    def exec_module(module: Any) -> None:
        execute(module)
        module.cuda.init = lambda: None
        module.cuda.get_device_name = lambda *_: "no GPU"

    return exec_module


sys.meta_path = [Poor if finder is PathFinder else finder for finder in sys.meta_path]
