"""Host memory that this process may still take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that are free without swapping, and below the limits of its control groups (version 2),
    as a container or Slurm sets them; None where the system does not tell.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    found += [left for folder in _groups(proc, cgroups) if (left := _left(folder)) is not None]
    return min(found, default=None)


def _groups(proc: Path, cgroups: Path) -> list[Path]:
    """Return the folder of this process's group and of all groups around it."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    paths = [line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")]
    return [cgroups / p for path in paths for p in (Path(path), *Path(path).parents)]


def _left(group: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (group / "memory.stat").read_text().splitlines()
        # Pages of files that nothing uses are given up when memory is asked for.
        return max(0, limit - used + int(dict(line.split() for line in lines)["inactive_file"]))
    return None  # no limit ("max"), or no such file
