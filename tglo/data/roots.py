"""Where images may lie: in one folder, the root, which neither names nor links lead out of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tglo.data.errors import ManifestError


def why_refused(image: str, root: str | None) -> str | None:
    """Say why an image's name may not be used as written, or None. The disk is not looked at.

    root: resolved; None where no absolute name is right, as in a tar.
    """
    if not image:
        return "is empty"
    if "\0" in image:
        return "holds a null byte"
    if "://" in image:
        return "is a URL: download it, images are read from disk only"
    if ".." in image.split("/"):
        return "climbs with '..': write it without, and name the folder of all images as --root (data.root)"
    if not image.startswith("/"):
        return None
    if root is None:
        return "is absolute"
    if not image.startswith(root.rstrip("/") + "/"):
        return f"is absolute and outside the data folder {root}"
    return None


def is_within(real: str, root: str) -> bool:
    """Return whether a file belongs to the root: it lies in it, or is one of its blobs in a hub cache.

    Both are resolved. A hub cache has NAME/snapshots/REVISION/FILE as a link to NAME/blobs/HASH, so
    what a snapshot consists of lies outside of it.
    """
    if os.path.commonpath([real, root]) == root:
        return True
    name, snapshots, _ = root.rpartition("/snapshots/")
    return bool(snapshots) and os.path.dirname(real) == f"{name}/blobs"


@dataclass(frozen=True)
class Root:
    """The folder that images must lie in, once links are followed; relative names start there.

    folder: resolved. beside: the manifest's own folder, resolved; a relative name that the root does
    not have starts there. listed: the names were found in that folder, and start there first.
    """

    folder: str
    beside: str
    listed: bool = False

    def find(self, name: str) -> Path:
        """Return the resolved path of a file. ManifestError when it lies outside of the root.

        name: as `why_refused` lets it pass. The file need not exist.
        """
        path = os.path.join(self.beside if self.is_beside(name) else self.folder, name)
        real = os.path.realpath(path)
        if not is_within(real, self.folder):
            how = "outside" if real == os.path.normpath(path) else "a link out of"
            reachable = os.path.lexists(os.path.join(self.beside, name))
            rename = "" if reachable else "write its absolute path into the manifest and "
            common = os.path.commonpath([real, self.folder])
            raise ManifestError(
                f"{name!r} is {how} the data folder {self.folder}, at {real}; refused. If it may be "
                f"read, {rename}give a folder that holds both as --root (data.root): {common}"
            )
        return Path(real)

    def is_beside(self, name: str) -> bool:
        """Return whether a name starts at the manifest's folder, since the root does not have it."""
        return (
            self.beside != self.folder
            and (self.listed or not os.path.lexists(os.path.join(self.folder, name)))
            and os.path.lexists(os.path.join(self.beside, name))
        )


def root_of(folder: Path, root: str | os.PathLike[str] | None, listed: bool = False) -> Root:
    """Return where the images of a manifest in `folder` may lie: see `Root`. ManifestError for a root that is none."""
    if root is not None and not os.path.isdir(root):
        raise ManifestError(f"the root {root} (--root, data.root) is not a folder")
    beside = os.path.realpath(folder)
    return Root(beside if root is None else os.path.realpath(root), beside, listed)
