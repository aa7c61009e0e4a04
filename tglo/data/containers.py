"""Reads the bytes of an image: a file in the data folder, a tar member, or a row of an Arrow file.

A manifest names them as `photos/1.jpg`, `shard-000.tar#1.jpg`, `data-00000-of-00001.arrow#image/17`.
Nothing outside the data folder is ever read, and nothing is ever unpacked to disk.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tglo.data.errors import ImageError, ManifestError

if TYPE_CHECKING:
    import pyarrow

MAX_BYTES = 64 * 2**20  # the most that one encoded image may have
_REFERENCE = re.compile(r"(?P<file>.+?\.(?:tar|arrow))#(?P<member>.+)", re.DOTALL)


def why_refused(image: str, root: str) -> str | None:
    """Say why an image's name may not be used as written, or None. The disk is not looked at."""
    if not image:
        return "is empty"
    if "\0" in image:
        return "holds a null byte"
    if "://" in image:
        return "is a URL: download it, images are read from disk only"
    if ".." in image.split("/"):
        return "climbs with '..'"
    if image.startswith("/") and not image.startswith(root.rstrip("/") + "/"):
        return f"is absolute and outside the data folder {root}"
    return None


def split_reference(image: str) -> tuple[str, str | None]:
    """Return the file that an image is in and its name there, None for an image of its own."""
    reference = _REFERENCE.fullmatch(image)
    return (image, None) if reference is None else (reference["file"], reference["member"])


@dataclass(frozen=True)
class Member:
    """The place of a tar member's bytes in its file."""

    offset: int
    size: int


def tar_members(path: Path) -> dict[str, Member]:
    """Return the regular files of an uncompressed tar by name.

    Raises ManifestError for links, devices, `..`, absolute names and a torn file.
    """
    members: dict[str, Member] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                refused = why_refused(info.name, "/\0")  # no absolute name is inside that root
                if refused:
                    raise ManifestError(f"{path}: member {info.name!r} {refused}; refused")
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise ManifestError(
                        f"{path}: member {info.name!r} is not a plain file but a link or a device; refused. "
                        "Pack the images themselves (tar --dereference)"
                    )
                members[info.name] = Member(info.offset_data, info.size)
            end = tar.offset
    except tarfile.TarError as error:
        raise ManifestError(
            f"{path} is torn or not an uncompressed tar ({error}); copy it again, or decompress it"
        ) from None
    with open(path, "rb") as handle:  # tarfile takes a cut between two members as the end
        handle.seek(end)
        if not handle.read(512):
            raise ManifestError(f"{path} is torn: the tar's end mark is missing; copy it again")
    return members


def read_arrow(path: Path) -> pyarrow.Table:
    """Memory-map an Arrow stream file, the kind that `datasets.save_to_disk` writes."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            return stream.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(
            f"{path} is torn or not an Arrow stream ({error}); copy it again"
        ) from None


@dataclass
class ImageStore:
    """Opens images inside one data folder. May be used from several threads."""

    root: str  # resolved: a path without links
    _tars: dict[Path, dict[str, Member]] = field(default_factory=dict)
    _tables: dict[Path, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, image: str, max_bytes: int = MAX_BYTES) -> bytes:
        """Return the encoded bytes of an image.

        Raises ImageError when it is missing, unreadable or above max_bytes, ManifestError when its
        name or a link leads out of the data folder.
        """
        refused = why_refused(image, self.root)
        if refused:
            raise ManifestError(f"image {image!r} {refused}; refused")
        reference = _REFERENCE.fullmatch(image)
        if reference is None:
            return _read_range(self._inside(image), None, max_bytes)
        path = self._inside(reference["file"])
        if reference["file"].endswith(".tar"):
            member = self._opened(path, tar_members, self._tars).get(reference["member"])
            if member is None:
                raise ImageError(f"{path.name} has no member {reference['member']!r}")
            return _read_range(path, member, max_bytes)
        return self._arrow_bytes(path, reference["member"], max_bytes)

    def status(self, file: str) -> os.stat_result | None:
        """Return what the system says of a file, named as `split_reference` does; None if there is none."""
        try:
            status = os.stat(self._inside(file))
        except (OSError, ManifestError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def _inside(self, name: str) -> Path:
        real = os.path.realpath(os.path.join(self.root, name))
        if os.path.commonpath([real, self.root]) != self.root:
            raise ManifestError(
                f"{name!r} is a link out of the data folder {self.root}; refused. "
                "Put the files below it, or give the folder that holds both (root)"
            )
        return Path(real)

    def _opened(self, path: Path, read: Callable[[Path], Any], known: dict[Path, Any]) -> Any:
        with self._lock:
            if path not in known:
                if not path.is_file():
                    raise ImageError(f"there is no file {path}")
                known[path] = read(path)
            return known[path]

    def _arrow_bytes(self, path: Path, member: str, max_bytes: int) -> bytes:
        column, _, row = member.rpartition("/")
        table = self._opened(path, read_arrow, self._tables)
        if column not in table.column_names or not row.isdecimal() or int(row) >= table.num_rows:
            raise ImageError(f"{path.name} has no image {member!r}")
        value = table.column(column)[int(row)].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ImageError(f"{path.name} holds no image bytes at {member!r}")
        if len(data) > max_bytes:
            raise ImageError(f"{len(data)} bytes are above the cap of {max_bytes} (max_bytes)")
        return data


def _read_range(path: Path, member: Member | None, max_bytes: int) -> bytes:
    try:
        with open(path, "rb", opener=_open_without_waiting) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("is not a regular file")
            size = status.st_size if member is None else member.size
            if size > max_bytes:
                raise ImageError(f"{size} bytes are above the cap of {max_bytes} (max_bytes)")
            handle.seek(0 if member is None else member.offset)
            return handle.read(size)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would block forever
