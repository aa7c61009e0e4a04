"""Makes the folder that stands for a model in one file; see tglo.models.single_file.source."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tglo.files import DiskFull, write_json, writing_folder
from tglo.models import folder
from tglo.models.families.loaded import Loaded
from tglo.models.names import local_path
from tglo.models.single_file import published
from tglo.models.single_file.layouts import Layout
from tglo.models.single_file.rest import find_rest
from tglo.models.single_file.source import MARK, home

log = logging.getLogger(__name__)
_LONGEST = (
    150  # bytes of a name: a disk takes 255, and the folder is written under a longer one first
)
_CONFIGS = {"model": "config.json", "scheduler": "scheduler_config.json"}


def stand_in(file: Path, layout: Layout, family: type[Loaded], config: str | None) -> Path:
    """Return the folder for a file of this layout, made if there is none yet.

    Its name has a digest of all that is in it, and of the file's size and time: what has changed gets another
    folder. Raises what find_rest raises, and ValueError for a configuration of another pipeline.
    """
    family = family.for_index(_local_index(config))
    needed = family.needed_parts()
    missing = [name for name, kind in needed.items() if _is_missing(name, kind, layout)]
    rest = find_rest(file, layout, missing, config).resolve()
    # Of the layout's own repository only what was asked for can be relied on to be there.
    theirs = not layout.published or (config is not None and (rest / folder.INDEX).is_file())
    known = {} if theirs else _published(layout)
    content = _configurations(rest, needed, layout, known)
    content[folder.INDEX] = _index(rest, layout, family, known)
    state = file.stat()
    content[MARK] = {
        "file": str(file.resolve()),
        "size": state.st_size,
        "time": state.st_mtime_ns,
        "parts": {name: p for name, p in layout.parts.items() if name in needed},
        "rest": str(rest),
    }
    digest = hashlib.sha256(json.dumps([content, missing], sort_keys=True).encode()).hexdigest()
    path = place(file.stem, digest)
    links = {name: rest / name for name in missing if name != "scheduler"}
    if write_stand_in(path, content, links):
        log.info(
            "%s is read as %s; %s of it from %s", file, layout.title, ", ".join(missing), rest
        )  # fmt: skip
    return path


def _is_missing(name: str, kind: str, layout: Layout) -> bool:
    if kind == "scheduler":
        return not layout.published
    return name not in layout.parts


def _published(layout: Layout) -> dict[str, dict[str, Any]]:
    return published.configurations(layout.published, layout.v_prediction, layout.zero_snr)


def _configurations(
    rest: Path, needed: dict[str, str], layout: Layout, known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return file -> configuration of the scheduler and of the parts that the file holds."""
    found: dict[str, Any] = {}
    for name, kind in needed.items():
        if kind == "scheduler" or name in layout.parts:
            file = f"{name}/{_CONFIGS[kind]}"
            found[file] = known.get(name) or folder.read_config(rest / file)
    return found


def _local_index(config: str | None) -> dict[str, Any]:
    path = None if config is None else local_path(config)
    return {} if path is None or not (path / folder.INDEX).is_file() else folder.read_index(path)


def _index(
    rest: Path, layout: Layout, family: type[Loaded], known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the index: that of the configuration's folder, with the parts that this folder has."""
    if known:
        return published.index(layout.published, known["scheduler"]["_class_name"])
    index = folder.read_index(rest)
    if index.get("_class_name") != layout.pipeline:
        raise ValueError(
            f"{rest} is of {index.get('_class_name')}, and the file is {layout.title} ({layout.pipeline}); give "
            f"a folder or hub id of {layout.title} as model.config (--model-config)"
        )
    parts = family.needed_parts()
    return {
        name: [None, None] if isinstance(entry, list) and name not in parts else entry
        for name, entry in index.items()
    }


def place(name: str, digest: str) -> Path:
    """Return where a folder lies that stands for a model of this name, whose name may be as long as a disk allows."""
    short = name.encode()[:_LONGEST].decode(errors="ignore")
    return home() / f"{short}-{digest[:12]}"


def write_stand_in(path: Path, content: Mapping[str, Any], links: Mapping[str, Path]) -> bool:
    """Write a folder of JSON files and links, by name, unless it is there; return whether it was not.

    One from which something was removed is written again. OSError, with what to do, where the cache folder cannot be
    written; DiskFull is raised as it is.
    """
    if _is_whole(path, content, links):
        return False
    if path.is_dir():
        log.warning("%s lacks files that it was made with, and is made again", path)
    try:
        with writing_folder(path, overwrite=True) as temporary:
            for name, value in content.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                write_json(temporary / name, value)
            for name, target in links.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).symlink_to(target)
    except DiskFull:
        raise
    except OSError as error:
        if _is_whole(path, content, links):  # another process was faster; what it wrote is the same
            return False
        raise OSError(
            f"tglo keeps a few kilobytes for each such model in {path.parent}, and cannot write there "
            f"({error.strerror or error}); set XDG_CACHE_HOME to a folder that it may write"
        ) from error
    return True


def _is_whole(path: Path, content: Mapping[str, Any], links: Mapping[str, Path]) -> bool:
    try:
        return all((path / name).is_file() for name in content) and all(
            (path / name).readlink() == target for name, target in links.items()
        )
    except OSError:
        return False
