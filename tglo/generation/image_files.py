"""Publishes a batch of images as a whole, because images that were made together must stay together.

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

from tglo.files import DiskFull, flush, writing_folder

_COMPLETE = ".batch"
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"  # the last chunk of every PNG


def publish_images(folder: Path, images: Mapping[str, Image.Image]) -> None:
    """Write images, by file name, as PNG into `folder`; after a crash all of them are there or none.

    Another process may write other images into the folder at the same time, or the same ones.
    DiskFull tells the bytes that they need.
    """
    files = {name: _png(image) for name, image in images.items()}
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
    """Tell whether a PNG is there to its last chunk; what lies before that is not looked at."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END
    except OSError:  # missing, or shorter
        return False


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
