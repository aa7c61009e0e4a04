"""Reads the bytes of an image: a file in the data folder, a tar member, or a row of an Arrow or Parquet file.

A manifest names them as `photos/1.jpg`, `shard-000.tar#1.jpg`, `data-00000-of-00001.arrow#image/17`. A folder
that is named so is a video (frames.py).
Nothing outside the data folder (roots.py) is ever read, and nothing is ever unpacked to disk.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tglo.data.errors import ImageError, ManifestError, reading_manifest
from tglo.data.frames import FrameFolder, frame_names, rate_of
from tglo.data.parquet_images import ParquetImages
from tglo.data.roots import Root, why_refused

if TYPE_CHECKING:
    import pyarrow

MAX_BYTES = 64 * 2**20  # the most that one encoded image may have
_OPEN = 4  # Parquet files at once, the last that were opened
_REFERENCE = re.compile(r"(?P<file>.+?\.(?:tar|arrow|parquet))#(?P<member>.+)", re.DOTALL)
_ELSEWHERE = " (--root names the folder of images that lie elsewhere)"


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

    Raises ManifestError for links, devices, `..`, absolute names, two files of one name, and a torn
    file.
    """
    with reading_manifest(path, "uncompressed tar", "copy it again, or decompress it"):
        with tarfile.open(path, "r:") as tar:
            entries, end = list(tar), tar.offset
        with open(path, "rb") as handle:  # tarfile takes a cut between two members as the end
            handle.seek(end)
            if not handle.read(512):
                raise EOFError("it is torn: the tar's end mark is missing")
    members: dict[str, Member] = {}
    for info in entries:
        refused = why_refused(info.name, None)
        if refused:
            raise ManifestError(f"{path}: member {info.name!r} {refused}; refused")
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise ManifestError(
                f"{path}: member {info.name!r} is not a plain file but a link or a device; refused. "
                "Pack the images themselves (tar --dereference)"
            )
        if info.name in members:
            raise ManifestError(
                f"{path} holds {info.name!r} twice, and one would hide the other; pack it again with "
                "a name for each"
            )
        members[info.name] = Member(info.offset_data, info.size)
    return members


def read_arrow(path: Path) -> pyarrow.Table:
    """Memory-map an Arrow stream file, the kind that `datasets.save_to_disk` writes."""
    import pyarrow as pa

    with (
        reading_manifest(path, "Arrow stream"),
        pa.memory_map(str(path)) as source,
        pa.ipc.open_stream(source) as stream,
    ):
        return stream.read_all()


@dataclass
class ImageStore:
    """Opens images inside one data folder. May be used from several threads."""

    root: Root
    _tars: dict[Path, dict[str, Member]] = field(default_factory=dict)
    _tables: dict[Path, Any] = field(default_factory=dict)
    _parquets: dict[Path, ParquetImages] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[type[ImageStore], tuple[Root]]:
        return ImageStore, (self.root,)  # what is open and locked belongs to a process

    def read(self, image: str, max_bytes: int = MAX_BYTES) -> bytes:
        """Return the encoded bytes of an image.

        Raises ImageError when it is missing, unreadable or above max_bytes, ManifestError when its
        name or a link leads out of the data folder.
        """
        path, member = self._find(image)
        if isinstance(member, str):
            return self._cell_bytes(path, image, max_bytes)
        if member is None and path.is_dir():
            raise ImageError(
                "it is a folder, which is the frames of a video, and not an image: give it to a model of videos, "
                "or name each image in a row of its own"
            )
        with _opened_range(path, member) as (handle, size):
            if size > max_bytes:
                raise ImageError(f"{size} bytes are above the cap of {max_bytes} (max_bytes)")
            return handle.read(size)

    @contextmanager
    def open(
        self, image: str, cells: Mapping[str, Any] = MappingProxyType({})
    ) -> Iterator[BufferedIOBase | FrameFolder]:
        """Open what an image or a video is encoded in, of any size; cells: the row's other columns, which may say
        the rate of a folder of frames. Errors are those of `read`, and ImageError for a folder without frames.
        """
        path, member = self._find(image)
        if member is None and path.is_dir():
            names = [f"{image.rstrip('/')}/{name}" for name in frame_names(path)]
            yield FrameFolder(names, self.open_frame, self.read, rate_of(cells))
            return
        if isinstance(member, str):
            yield io.BytesIO(self._cell_bytes(path, image, MAX_BYTES))
            return
        with _opened_range(path, member) as (handle, size):
            if member is not None:
                handle = io.BufferedReader(_Part(handle, member.offset, size))
            yield handle

    @contextmanager
    def open_frame(self, image: str) -> Iterator[BufferedIOBase]:
        """Open a file of its own, of any size. Errors are those of `read`."""
        with _opened_range(self._find(image)[0], None) as (handle, _):
            yield handle

    def _find(self, image: str) -> tuple[Path, Member | str | None]:
        """Return an image's file, and its place in a tar or its name in an Arrow file; None: the whole file."""
        refused = why_refused(image, self.root.folder)
        if refused:
            raise ManifestError(f"image {image!r} {refused}; refused")
        file, member = split_reference(image)
        path = self.root.find(file)
        if member is None or not file.endswith(".tar"):
            return path, member
        found = self._opened(path, tar_members, self._tars).get(member)
        if found is None:
            raise ImageError(f"{path.name} has no member {member!r}")
        return path, found

    def status(self, file: str) -> os.stat_result | None:
        """Return what the system says of a file, named as `split_reference` does; None if there is none."""
        try:
            status = os.stat(self.root.find(file))
        except (OSError, ManifestError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def folder(self, file: str) -> Path | None:
        """Return where a folder is that is named as an image, None if there is none."""
        try:
            path = self.root.find(file)
        except ManifestError:
            return None
        return path if path.is_dir() else None

    def _opened(self, path: Path, read: Callable[[Path], Any], known: dict[Path, Any]) -> Any:
        with self._lock:
            if path not in known:
                if not path.is_file():
                    raise ImageError(f"there is no file {path}{_ELSEWHERE}")
                known[path] = read(path)
            return known[path]

    def _cell_bytes(self, path: Path, image: str, max_bytes: int) -> bytes:
        file, member = split_reference(image)  # a path of the hub's cache has lost the ending
        column, _, row = (member or "").rpartition("/")
        if not row.isdecimal():
            raise ImageError(f"{file} has no image {member!r}")
        data: Any
        if file.endswith(".parquet"):
            data = self._parquet(path, file).read(column, int(row))
        else:
            data = self._arrow_cell(path, column, int(row))
        if not isinstance(data, bytes):
            raise ImageError(f"{path.name} holds no image bytes at {member!r}")
        if len(data) > max_bytes:
            raise ImageError(f"{len(data)} bytes are above the cap of {max_bytes} (max_bytes)")
        return data

    def _parquet(self, path: Path, file: str) -> ParquetImages:
        found: ParquetImages = self._opened(
            path, lambda path: ParquetImages(path, file), self._parquets
        )
        with self._lock:
            while len(self._parquets) > _OPEN:
                self._parquets.pop(next(iter(self._parquets)))
        return found

    def _arrow_cell(self, path: Path, column: str, row: int) -> Any:
        table = self._opened(path, read_arrow, self._tables)
        if column not in table.column_names or row >= table.num_rows:
            raise ImageError(f"{path.name} has no image {column}/{row}")
        value = table.column(column)[row].as_py()
        return value.get("bytes") if isinstance(value, dict) else value


class _Part(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, handle: BufferedIOBase, offset: int, size: int) -> None:
        self._handle, self._offset, self._size, self._place = handle, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._handle.seek(self._offset + self._place)
        data = self._handle.read(max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


@contextmanager
def _opened_range(path: Path, member: Member | None) -> Iterator[tuple[BufferedIOBase, int]]:
    """Open a file at a member's place; yields it with the number of bytes."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("is not a regular file")
            handle.seek(0 if member is None else member.offset)
            yield handle, status.st_size if member is None else member.size
    except OSError as error:
        hint = _ELSEWHERE if isinstance(error, FileNotFoundError) else ""
        raise ImageError(f"cannot be read: {error.strerror or error}{hint}") from None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would block forever
