"""Files and folders: written whole or not at all, read with a sentence for what is damaged."""

from tglo.files.appending import append
from tglo.files.damaged import DamagedFile, read_json, read_tensors, reading
from tglo.files.folders import claim_folder, differences, locked
from tglo.files.leftovers import remove_leftovers
from tglo.files.modes import save_tensors
from tglo.files.patience import Patience
from tglo.files.sealed import read_sealed, write_sealed
from tglo.files.writing import (
    DiskFull,
    disk_space,
    flush,
    need_free,
    publish_folder,
    sha256_file,
    write_bytes,
    write_json,
    write_tensors,
    writing_file,
    writing_folder,
)

__all__ = [
    "DamagedFile",
    "DiskFull",
    "Patience",
    "append",
    "claim_folder",
    "differences",
    "disk_space",
    "flush",
    "locked",
    "need_free",
    "publish_folder",
    "read_json",
    "read_sealed",
    "read_tensors",
    "reading",
    "remove_leftovers",
    "save_tensors",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_sealed",
    "write_tensors",
    "writing_file",
    "writing_folder",
]
