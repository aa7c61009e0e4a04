"""What an earlier run left in the output folder, set aside where a new one begins."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from tglo.files import flush

CHECKPOINTS, SAMPLES = "checkpoints", "samples"
PARTS = (
    *("export", SAMPLES, "tensorboard", "metrics.jsonl"),
    *("threshold.json", "config.json", CHECKPOINTS),
)
"""The checkpoints come last: if a kill leaves them here, the earlier run still resumes from them."""


def set_aside(folder: Path) -> Path | None:
    """Move an earlier run to `folder`/earlier-1, or the next free number, and return that folder.

    It is a run's folder like any other. None if there are neither checkpoints nor metrics.
    """
    begun = any((folder / CHECKPOINTS).glob("step-*")) or (folder / "metrics.jsonl").exists()
    if not begun:
        return None
    aside = next(f for n in count(1) if not (f := folder / f"earlier-{n}").exists())
    aside.mkdir()
    for name in PARTS:
        if (folder / name).exists():
            os.replace(folder / name, aside / name)
    flush(aside)
    flush(folder)
    return aside
