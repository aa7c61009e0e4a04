"""Imported for what it does: the installed package, which has the extension, comes before the source folder."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if sys.path and sys.path[0] in ("", str(ROOT)):
    sys.path.append(sys.path.pop(0))
