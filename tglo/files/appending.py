"""Lines that are appended whole or not at all, to a file that stays as it is before them."""

from __future__ import annotations

import os
from pathlib import Path

from tglo.files.writing import disk_space


def append(file: int, path: Path, data: bytes, size: int, *, durable: bool = False) -> None:
    """Write data at the end of an open file, all of it or nothing: DiskFull, or another OSError.

    file: a descriptor opened with O_APPEND. path: its name, for errors. size: its bytes so far; what an error left
    after them is cut off. durable: wait until the disk has it.
    """
    with disk_space(path, len(data)):
        try:
            os.ftruncate(file, size)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            if durable:
                os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
