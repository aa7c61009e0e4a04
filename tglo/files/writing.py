"""Files and folders that are whole or absent: everything that a run trusts later is written here.

Each is written under a temporary name beside its own, flushed to the disk and renamed. A crash at
any moment leaves the old content or the new, never a part of either. A full disk is told by DiskFull.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tglo.files.leftovers import temporary_file, temporary_folder
from tglo.files.modes import open_like, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(OSError):
    """There is no space for a file or folder; what was there before is unharmed.

    needed: bytes that it would take, where they are known. number: errno.EDQUOT where the disk has
    space, but none for this user.
    """

    def __init__(
        self, path: str | os.PathLike[str], needed: int | None = None, number: int = errno.ENOSPC
    ) -> None:
        folder = Path(os.path.abspath(path)).parent
        while not folder.exists():
            folder = folder.parent
        # Rounded up: a file of some bytes does not need 0.0 MB.
        wants = "" if needed is None else f" needs {math.ceil(needed / 1e5) / 10:,.1f} MB and"
        free = f", {shutil.disk_usage(folder).free / 1e6:,.1f} MB are free. Free space on that disk"
        why = "the disk is full"
        if number == errno.EDQUOT:
            why = "the quota on the disk is used up"
            free = ". Remove files of yours there, or have the quota raised,"
        super().__init__(
            f"{why}: {path}{wants} could not be written{free} and start the same command again"
        )
        self.errno = number


@contextmanager
def disk_space(path: str | os.PathLike[str], needed: int | None = None) -> Iterator[None]:
    """Turn whatever the body raises for want of disk space into DiskFull, naming path and bytes needed."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        # safetensors and Arrow have classes of their own, which carry the number in their text.
        told = re.search(r"os error (\d+)|errno (\d+)", str(error), re.IGNORECASE)
        number = getattr(error, "errno", None) or (told and int(told[1] or told[2]))
        if number not in _FULL:
            raise
        raise DiskFull(path, needed, number) from error


@contextmanager
def writing_file(path: str | os.PathLike[str], needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to: published as `path`, or removed if the body fails.

    needed: bytes, for the message of a DiskFull. What is no file, as /dev/null or a pipe, is written to and stays:
    a file in its place would take it from everybody.
    """
    path = Path(path)
    if is_device(path):
        with tempfile.TemporaryDirectory(prefix="tglo-") as folder:
            yield Path(folder) / path.name
            with open(Path(folder) / path.name, "rb") as made, open(path, "wb") as device:
                shutil.copyfileobj(made, device)
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; give a file in it", str(path))
    with disk_space(path, needed), temporary_file(path) as temporary:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)  # the rename itself lives in the folder


def is_device(path: Path) -> bool:
    """Say whether a path is there and names neither file nor folder; so does /dev/stdout, wherever it leads."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or (
        path.is_symlink() and os.readlink(path).startswith("/proc/")
    )


@contextmanager
def writing_folder(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    needed: int | None = None,
    new: bool = False,
) -> Iterator[Path]:
    """Yield a temporary folder to fill: published as `path`, or removed if the body fails.

    What a killed process left of an earlier call for `path` is removed. FileExistsError when there
    is something at `path`, at the start or at the end, and overwrite is not set; DiskFull, with the
    bytes needed. new: no call had this name before, so nothing of one is looked for.
    """
    path = Path(os.path.abspath(path))
    need_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_space(path, needed), temporary_folder(path, new) as temporary:
        yield temporary
        need_free(path, overwrite)
        publish_folder(temporary, path)


def need_free(path: Path, overwrite: bool = False) -> None:
    """Raise FileExistsError when there is something at `path` and it may not be overwritten."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another folder, or remove that one first")


def publish_folder(temporary: Path, path: Path) -> None:
    """Flush a finished folder with all it holds, in modes like its own, and give it its name.

    A folder of that name goes aside as `.NAME.old` and is removed at the end. A kill between the
    two renames leaves it there, whole, and the next publication under that name removes it.
    """
    for entry in temporary.rglob("*"):
        if entry.is_file():
            open_like(temporary, entry)
        flush(entry)
    flush(temporary)
    aside = path.with_name(f".{path.name}.old")
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    try:
        os.replace(temporary, path)
    finally:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
    flush(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until the disk holds a file's bytes, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some disks cannot flush folders
            raise
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write data to path atomically and durably."""
    with writing_file(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors (CPU or not, made contiguous) as safetensors, atomically and durably.

    metadata: texts by name, written in sorted order: equal content, equal bytes.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with writing_file(path, sum(t.nbytes for t in whole.values())) as temporary:
        save_tensors(whole, temporary, metadata)
        _sort_metadata(temporary)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write content as JSON, keys sorted: equal content, equal bytes. NaN and inf are refused."""
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", "surrogatepass"))


def _sort_metadata(path: Path) -> None:
    """Give a safetensors file's metadata a fixed order: the library writes them in a random one."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if len(header.get("__metadata__", ())) > 1:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= size:  # padded with spaces, as the format allows
                file.seek(8)
                file.write(text.ljust(size))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 as a hex string; the file is read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
