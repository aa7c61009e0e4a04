"""Folders whose weights are those of a variant, such as fp16: model.fp16.safetensors in place of model.safetensors.

A folder of links stands for one (tglo.models.single_file.source), in which the variant's files have the plain
names: all that takes a folder takes it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

from tglo.models import folder
from tglo.models.families.loaded import Loaded
from tglo.models.single_file.source import MARK, source_of
from tglo.models.single_file.stand_in import place, write_stand_in

log = logging.getLogger(__name__)
_SINGLE = re.compile(r"(diffusion_pytorch_model|model)\.(\w+)\.safetensors")
_INDEX = re.compile(r"(diffusion_pytorch_model|model)\.safetensors\.index\.(\w+)\.json")
_PLAIN = re.compile(r"(diffusion_pytorch_model|model)\.safetensors(\.index\.json)?")
_told: set[Path] = set()


def lacks_weights(path: Path, family: type[Loaded]) -> bool:
    """Say whether a part of a folder has no safetensors weights at all, of no variant."""
    return any(
        not _found(path / part) and not _is_plain(path / part) for part in _models(path, family)
    )


def with_variant(path: Path, family: type[Loaded], variant: str | None) -> Path:
    """Return the folder itself if its plain weights are read, else the folder of links that stands for it.

    variant: is read where a part has it, the plain weights where not. None: the plain weights, and where a part
    has none, the one variant that it has. ValueError for a variant that no part has, and for a choice to be made.
    """
    if source_of(path) is not None:
        return path
    chosen = {part: _choose(path / part, variant) for part in _models(path, family)}
    if not any(chosen.values()):
        if variant is not None:
            known = sorted({name for part in chosen for name in _found(path / part)})
            raise ValueError(
                f"no part of {path} has weights of variant {variant!r} (model.variant, --variant); there are "
                f"{', '.join(known) or 'none'} besides the plain ones; leave it out, or download them"
            )
        return path
    links = {part: path.resolve() / part for part in family.needed_parts() if not chosen.get(part)}
    links |= {
        f"{part}/{ours}": path.resolve() / part / theirs
        for part, name in chosen.items()
        if name
        for ours, theirs in _files(path / part, name).items()
    }
    content: dict[str, Any] = {MARK: {"file": "", "parts": {}, "rest": str(path.resolve())}}
    if (path / folder.INDEX).is_file():
        index = folder.read_index(path)
        optional = {name: [None, None] for name in family.optional_parts() if name in index}
        content[folder.INDEX] = index | optional
    named = {name: str(target) for name, target in links.items()}
    digest = hashlib.sha256(json.dumps([content, named], sort_keys=True).encode()).hexdigest()
    stands_for = place(path.resolve().name, digest)
    write_stand_in(stands_for, content, links)
    if path not in _told:
        _told.add(path)
        names = ", ".join(f"{part} ({name})" for part, name in chosen.items() if name)
        log.info("%s: weights of a variant are read for %s", path, names)
    return stands_for


def _models(path: Path, family: type[Loaded]) -> list[str]:
    parts = family.needed_parts().items()
    return [name for name, kind in parts if kind == "model" and (path / name).is_dir()]


def _found(part: Path) -> dict[str, dict[str, str]]:
    """Return variant -> plain name of a file -> its name."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(part.iterdir()):
        if match := _SINGLE.fullmatch(file.name):
            found.setdefault(match[2], {})[f"{match[1]}.safetensors"] = file.name
        elif match := _INDEX.fullmatch(file.name):
            found.setdefault(match[2], {})[f"{match[1]}.safetensors.index.json"] = file.name
    return found


def _is_plain(part: Path) -> bool:
    return any(_PLAIN.fullmatch(file.name) for file in part.iterdir())


def _choose(part: Path, variant: str | None) -> str | None:
    found, plain = _found(part), _is_plain(part)
    if variant in found:
        return variant
    if plain or not found:
        return None
    if variant is None and len(found) == 1:
        return next(iter(found))
    raise ValueError(
        f"{part} has weights of {', '.join(found)} and no others"
        f"{'' if variant is None else f', none of {variant!r}'}; choose one as model.variant (--variant)"
    )


def _files(part: Path, variant: str) -> dict[str, str]:
    """Return the names in the folder of links -> those of the part's files: the variant's, and all but weights."""
    weights = _found(part)[variant]
    others = {
        file.name: file.name
        for file in part.iterdir()
        if file.name.endswith(folder.TEXTS)
        and not _PLAIN.fullmatch(file.name)
        and not _INDEX.fullmatch(file.name)
    }
    shards = {
        name: name
        for ours, theirs in weights.items()
        if ours.endswith(".index.json")
        for name in folder.read_config(part / theirs).get("weight_map", {}).values()
    }
    return {**others, **shards, **weights}
