"""The resolution of a cache for which none is asked."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from tglo.cache.format import FINGERPRINT
from tglo.files import read_json

log = logging.getLogger("tglo")


def resolution_for(family: Any, output: Path) -> int:
    """Return that of the cache in `output`, if one is begun there, else the model's own.

    The model's own is the side of the smallest square, in the model's steps, that has as many pixels as the images
    (or frames) it was trained on.
    """
    there = _begun(output)
    if there is not None:
        log.info("resolution %d (--resolution), as of the cache in %s", there, output)
        return there
    height, width = family.default_size
    step = family.bucket_step
    side = math.ceil(math.sqrt(height * width) / step) * step
    log.info(
        "resolution %d (--resolution): the model was trained on %d x %d pixels", side, height, width
    )
    return side


def _begun(output: Path) -> int | None:
    file = output / FINGERPRINT
    if not file.is_file():
        return None
    found = read_json(file)
    stated = found.get("resolution") if isinstance(found, dict) else None
    return int(stated) if isinstance(stated, str) and stated.isdecimal() else None
