"""Where a page may be written: it replaces an earlier page, and nothing else."""

from __future__ import annotations

from pathlib import Path


def check_page(path: Path, flag: str, name: str) -> None:
    """Refuse a folder, and a file that is no page, such as the manifest. Call it before long work.

    flag: the option that gave the path. name: of a page, as an example. Raises ValueError.
    """
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder; give a file in it, such as {path / name}")
    if path.exists() and not _is_page(path):
        example = path.with_suffix(".html")
        raise ValueError(
            f"{flag} {path} is there and is no page, and would be lost; give another name, such as "
            f"{example if example != path else name}"
        )


def _is_page(path: Path) -> bool:
    if not path.is_file():  # /dev/null and pipes
        return True
    with path.open("rb") as file:
        start = file.read(512)
    return not start or start.lstrip().lower().startswith((b"<!doctype html", b"<html"))
