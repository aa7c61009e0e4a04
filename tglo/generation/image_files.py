"""Publishes a batch of images as a whole, because images that were made together must stay together.

The files are written into a hidden folder, which is published when they are complete. Moving them
from there to their places may be interrupted; the next process finishes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from PIL import Image

from tglo.files import flush, publish_folder

_COMPLETE = ".batch"


def publish_images(folder: Path, images: Mapping[str, Image.Image]) -> None:
    """Write images, by file name, as PNG into `folder`; after a crash all of them are there or none.

    Another process may write other images into the folder at the same time.
    """
    first = next(iter(images))
    staged = folder / f".{first}.tmp"
    shutil.rmtree(staged, ignore_errors=True)  # left by a killed process
    staged.mkdir()
    for name, image in images.items():
        image.save(staged / name, format="PNG")
    publish_folder(staged, folder / f".{first}{_COMPLETE}")
    collect(folder)


def collect(folder: Path) -> None:
    """Move the images of complete batches to their places."""
    for batch in folder.glob(f".*{_COMPLETE}"):
        with suppress(FileNotFoundError):  # another process is moving the same ones
            for name in os.listdir(batch):
                with suppress(FileNotFoundError):
                    os.replace(batch / name, folder / name)
            flush(folder)  # the new names must be on the disk before the old ones go
            batch.rmdir()
