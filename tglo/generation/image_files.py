"""Publishes a batch of images or videos as a whole, because what was made together must stay together.

The files are written into a hidden folder, which is published when they are complete. Moving them
from there to their places may be interrupted; the next process finishes it.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from PIL import Image

from tglo.data.video import Video, contact_sheet, write_video
from tglo.files import DiskFull, flush, writing_folder

_COMPLETE = ".batch"
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"  # the last chunk of every PNG


def publish_images(folder: Path, images: Mapping[str, Image.Image | Video]) -> None:
    """Write images as PNG, and videos as MP4 with a sheet of their frames as PNG, by file name into `folder`;
    after a crash all of them are there or none.

    Another process may write other images into the folder at the same time, or the same ones.
    DiskFull tells the bytes that they need.
    """
    files: dict[str, bytes] = {}
    for name, image in images.items():
        if isinstance(image, Video):
            files[name] = write_video(image)
            name, image = Path(name).with_suffix(".png").name, contact_sheet(image)
        files[name] = _png(image)
    batch = folder / f".{next(iter(images))}.{secrets.token_hex(8)}{_COMPLETE}"
    try:
        with writing_folder(batch, new=True) as staged:
            for name, data in files.items():
                (staged / name).write_bytes(data)
    except DiskFull as error:  # users do not know the hidden folder
        needed = sum(map(len, files.values()))
        raise DiskFull(folder / next(iter(images)), needed, error.errno or errno.ENOSPC) from error
    _move(batch, folder)


def collect(folder: Path) -> None:
    """Move the images of the complete batches that killed processes left to their places."""
    for batch in folder.glob(f".*{_COMPLETE}"):
        _move(batch, folder)


def _move(batch: Path, folder: Path) -> None:
    with suppress(FileNotFoundError):  # another process is moving the same ones
        for name in os.listdir(batch):
            with suppress(FileNotFoundError):
                os.replace(batch / name, folder / name)
        flush(folder)  # the new names must be on the disk before the old ones go
        batch.rmdir()


def is_whole(path: Path) -> bool:
    """Tell whether a PNG is there to its last chunk, or an MP4 to its last box; what lies before that is not
    looked at.
    """
    try:
        if path.suffix == ".mp4":
            return _has_all_boxes(path)
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END
    except OSError:  # missing, or shorter
        return False


def _has_all_boxes(path: Path) -> bool:
    """Tell whether the boxes of an MP4 end where the file does, with the index among them."""
    end, place, kinds = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        while place + 8 <= end:
            file.seek(place)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:
                return False
            kinds.add(kind)
            place += length
    return place == end and b"moov" in kinds


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
