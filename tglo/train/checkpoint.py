"""Checkpoints that are either whole or absent.

A checkpoint is written to ``step-N.tmp``, described by a manifest of sizes and SHA-256 sums, and
published as a whole; only then does ``latest`` name it. Whatever a crash leaves behind is recognised:
a ``.tmp`` folder is ignored, and a folder whose files do not match its manifest is skipped.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tglo import __version__
from tglo.files import flush, publish_folder, sha256_file, write_bytes
from tglo.train import processes

log = logging.getLogger("tglo")
MANIFEST = "manifest.json"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the older ones are untouched."""


def save(
    root: Path, step: int, write: Callable[[Path], None], state: dict[str, Any], keep: int
) -> Path:
    """Write checkpoint ``step`` under ``root``; collective.

    ``write(folder)`` writes this rank's files, ``state`` is the JSON that :func:`newest` returns, and
    ``keep`` is the number of checkpoints that stay. Raises CheckpointError on every rank if any rank
    could not write, for example because the disk is full.
    """
    final = root / f"step-{step:08d}"
    temporary = root / f"step-{step:08d}.tmp"
    try:
        processes.on_main(lambda: _fresh(temporary))
        processes.together(lambda: write(temporary))
        sums = processes.together(lambda: _describe(temporary))
        files = {name: entry for part in processes.gather(sums) for name, entry in part.items()}
        processes.on_main(lambda: _publish(temporary, final, files, state))
    except (OSError, RuntimeError) as error:
        if processes.rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {final} was not written ({error}); older checkpoints are unharmed. "
            "Free space on that disk and start the same command again to go on"
        ) from error
    processes.on_main(lambda: _prune(root, keep))
    return final


def newest(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint under ``root`` that verifies, and its state; None if there is none.

    Rank 0 verifies; every rank gets the same answer.
    """
    return processes.gather(processes.on_main(lambda: _newest(root)))[0]


def _newest(root: Path) -> tuple[Path, dict[str, Any]] | None:
    for folder in sorted(root.glob("step-*"), reverse=True):
        if folder.suffix == ".tmp":
            log.warning("ignoring %s: it was never finished", folder)
            continue
        problem = verify(folder)
        if problem is None:
            return folder, json.loads((folder / MANIFEST).read_text())["state"]
        log.warning("ignoring checkpoint %s: %s", folder, problem)
    return None


def verify(folder: Path) -> str | None:
    """Check each file of a checkpoint by size and SHA-256; say what is wrong, or return None."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"its manifest cannot be read ({error})"
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['size']}"
        if sha256_file(path) != entry["sha256"]:
            return f"{name} does not match its checksum"
    return None


def _fresh(temporary: Path) -> Path:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Flush and hash this rank's share of the files that all ranks wrote."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    entries = {}
    for path in paths[processes.rank() :: processes.world_size()]:
        flush(path)
        entries[path.relative_to(folder).as_posix()] = {
            "size": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    return entries


def _publish(temporary: Path, final: Path, files: dict[str, Any], state: dict[str, Any]) -> None:
    content = {
        "tglo": __version__,
        "world_size": processes.world_size(),
        "state": state,
        "files": dict(sorted(files.items())),
    }
    (temporary / MANIFEST).write_text(json.dumps(content, indent=1))
    publish_folder(temporary, final)
    write_bytes(final.parent / "latest", f"{final.name}\n".encode())


def _prune(root: Path, keep: int) -> None:
    whole = sorted(p for p in root.glob("step-*") if p.suffix != ".tmp")
    for folder in [*whole[:-keep], *root.glob("step-*.tmp"), *root.glob(".step-*.old")]:
        shutil.rmtree(folder, ignore_errors=True)
