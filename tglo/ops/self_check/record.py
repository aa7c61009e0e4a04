"""Results of checks on disk: a file for each card, driver, installation and kind of kernel.

A file that cannot be read is as good as none, and a folder that cannot be written costs a check in
every process, no more.
"""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from tglo.files import DamagedFile, read_sealed, write_sealed
from tglo.ops.self_check import machine
from tglo.ops.self_check.figures import Figure

log = logging.getLogger("tglo")


def key(backend: str, family: str, index: int) -> dict[str, str]:
    """Return everything that a result depends on."""
    return {
        "backend": backend,
        "family": family,
        **machine.card(index)._asdict(),
        **machine.installation(backend),
    }


def path(backend: str, family: str, index: int) -> Path:
    """Return the file of a result."""
    text = json.dumps(key(backend, family, index), sort_keys=True)
    return (
        machine.records()
        / f"{backend}-{family}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    )


def read(backend: str, family: str, index: int) -> tuple[tuple[Figure, ...], str] | None:
    """Return the figures on disk and the day they were found, or None."""
    try:
        content = read_sealed(path(backend, family, index), "self-check", "remove it")
        if content["key"] != key(backend, family, index) or not content["figures"]:
            return None
        figures = tuple(
            Figure(form, output, float(error), float(limit), problem)
            for form, output, error, limit, problem in content["figures"]
        )
        return figures, str(content["date"])
    except (DamagedFile, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        log.debug("no self-check on disk: %s", error)
        return None


def write(backend: str, family: str, index: int, figures: tuple[Figure, ...]) -> bool:
    """Keep the figures; return whether the disk took them."""
    rows = [[f.form, f.output, repr(f.error), repr(f.limit), f.problem] for f in figures]
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    try:
        place = path(backend, family, index)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(place, {"key": key(backend, family, index), "date": date, "figures": rows})
    except (OSError, RuntimeError) as error:
        log.debug("the self-check is not kept on disk: %s", error)
        return False
    return True
