"""Removes what a folder of shards no longer needs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from tglo.cache.shards import clear, parse_name, read_record, shard_name
from tglo.files.claims import Claims
from tglo.files.disk_clock import disk_time
from tglo.files.leftovers import DEAD_AFTER

_UNFINISHED = re.compile(r"\.([a-z]+)-(\d{5,})[.-].*\.tmp")
_OF_THE_FOLDER = ("cache.json", "reference.json", "fingerprint.json", "index.safetensors")


def collect_garbage(
    folder: Path,
    before: Collection[str],
    named: Collection[str],
    kinds: Sequence[str],
    claims: Claims,
) -> None:
    """Remove files that were superseded a day ago, and unfinished ones of killed processes.

    A training that opened the folder earlier reads its shards when it needs them, so what is
    superseded now is given the present time, and goes with the first command a day later.

    before, named: the files that the folder's last file named, and names. The claim on the folder's
    last file must be held; what belongs to a shard that another process is making stays.
    """
    for file in {*before} - {*named}:
        with suppress(OSError):  # removed by hand, or of another user
            os.utime(folder / file)
    now = disk_time(folder)
    for entry in os.listdir(folder):
        unfinished = _UNFINISHED.fullmatch(entry)
        if unfinished is not None and unfinished[1] in kinds:
            with claims.trying(shard_name(unfinished[1], int(unfinished[2]))) as free:
                if free:
                    (folder / entry).unlink(missing_ok=True)
        elif entry.endswith(".safetensors") and not entry.startswith(".") and entry not in named:
            _remove(folder, entry, kinds, claims, now)
    for name in _OF_THE_FOLDER:
        clear(folder, f".{name}.*.tmp")
    claims.others("")  # removes those of dead processes


def _remove(folder: Path, file: str, kinds: Sequence[str], claims: Claims, now: float) -> None:
    """Remove a file unless it is young, none of ours, or a record names it: of rows that may come back."""
    if now - (folder / file).lstat().st_mtime < DEAD_AFTER:
        return
    if re.fullmatch(r"index(-[0-9a-f]{12})?\.safetensors", file):
        (folder / file).unlink(missing_ok=True)
        return
    try:
        kind, number = parse_name(file)
    except ValueError:
        return
    if kind not in kinds:
        return
    name = shard_name(kind, number)
    with claims.trying(name) as free:
        record = read_record(folder, name)
        if free and (record is None or record["file"] != file):
            (folder / file).unlink(missing_ok=True)
