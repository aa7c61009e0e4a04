"""A model folder on disk: what is in it, and that all of it can be used, known before anything is loaded.

Only what a family knows is read and copied: its needed and optional parts, subfolders with plain names.
Their weights are safetensors, all else in them is text. A link may lead to a file of the folder itself
or, from a snapshot of the Hugging Face hub's cache, into the blobs of that cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from safetensors import safe_open

from tglo.files import read_json, reading
from tglo.models.single_file.source import held_by, linked, source_of

INDEX = "model_index.json"
REMEDY = "download or export the model again"
TEXTS = (".json", ".txt", ".model", ".jinja")
"""Endings of the files that are copied beside the weights. Pickles have many, so these are named."""
_PLAIN = re.compile(r"\w[\w.-]*")
_WEIGHTS = ("diffusion_pytorch_model", "model")  # of diffusers and of transformers
_SHARDS = ".safetensors.index.json"
# Any one of these holds what turns a prompt into tokens.
_VOCABULARIES = (
    {"tokenizer.json"},
    {"vocab.json", "merges.txt"},
    {"vocab.txt"},
    {"spiece.model"},
    {"tokenizer.model"},
)


class Parts(Protocol):
    """What a family says of its folders: tglo.models.families.loaded.Loaded, as a class."""

    name: ClassVar[str]

    @classmethod
    def needed_parts(cls) -> dict[str, str]: ...

    @classmethod
    def optional_parts(cls) -> tuple[str, ...]: ...


def read_index(path: Path) -> dict[str, Any]:
    """Return a folder's model_index.json: parts as [library, class], both null where there is none, and settings.

    ValueError for a part whose name is not a plain one, DamagedFile for another form.
    """
    file = path / INDEX
    index = read_config(file)
    with reading(file, "index of a diffusers model", REMEDY):
        parts = {n: e for n, e in index.items() if isinstance(e, list) and not n.startswith("_")}
        for library, kind in parts.values():
            if not all(text is None or isinstance(text, str) for text in (library, kind)):
                raise TypeError
    for name in parts:
        if not _PLAIN.fullmatch(name):
            raise ValueError(
                f"{file} names a part {name!r}; a part is a subfolder, and its name has letters, "
                f"digits, '_', '-' and '.' only. Take that line out, or {REMEDY}"
            )
    return index


def read_config(file: Path) -> dict[str, Any]:
    """Return a JSON file that holds an object; DamagedFile for anything else, ValueError if it is missing."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: {REMEDY}")
    content = read_json(file, "model configuration", REMEDY)
    with reading(file, "model configuration", REMEDY):
        if not isinstance(content, dict):
            raise TypeError
    return content


@contextmanager
def understood(path: Path, kind: str) -> Iterator[None]:
    """Turn what using a damaged file raises into DamagedFile; a ValueError that names the path passes."""
    told = None
    with reading(path, kind, REMEDY):
        try:
            yield
        except ValueError as error:
            if str(path) not in str(error):
                raise
            told = error
    if told is not None:
        raise told


def check(path: Path, family: type[Parts]) -> None:
    """Raise ValueError, naming part and remedy, unless the folder has all that loading and exporting need.

    Weights are opened, not read: a cut file is found, damaged numbers are not.
    """
    index = read_index(path) if (path / INDEX).is_file() else None
    needed = family.needed_parts()
    lacking = [
        name
        for name in needed
        if not (path / name).is_dir() or not (index is None or _listed(index, name))
    ]
    if lacking:
        raise ValueError(
            f"{path} lacks {', '.join(lacking)}: a {family.name} folder has {', '.join(needed)}, "
            f"each as a subfolder and (if there is one) in {INDEX}. {REMEDY.capitalize()}"
        )
    if index is not None:
        contained(path, path / INDEX)
    for name, kind in needed.items():
        names = {file.name for file in part_files(path, name)}
        if kind == "tokenizer":
            _check_vocabulary(path / name, names)
        elif kind == "scheduler":
            read_config(path / name / "scheduler_config.json")
        else:
            _check_model(path / name, names)
    for name in present_parts(path, family):
        part_files(path, name)


def present_parts(path: Path, family: type[Parts]) -> list[str]:
    """Return the family's parts that the folder has and an export takes along.

    An optional part counts if its folder is there, with safetensors if it has weights, and its line
    in the index too.
    """
    index = read_index(path) if (path / INDEX).is_file() else {}
    optional = [
        name
        for name in family.optional_parts()
        if _listed(index, name) and (path / name).is_dir() and _usable(path / name)
    ]
    return [*family.needed_parts(), *optional]


def left_out(path: Path, family: type[Parts]) -> list[str]:
    """Return the optional parts that the folder's index lists and the folder does not have (whole)."""
    index = read_index(path) if (path / INDEX).is_file() else {}
    there = present_parts(path, family)
    return [n for n in family.optional_parts() if _listed(index, n) and n not in there]


def part_files(path: Path, part: str) -> list[Path]:
    """Return the files of a part, also those in its subfolders, without hidden ones.

    ValueError for a link out of the model folder, and for anything that is no file.
    """
    found: list[Path] = []
    waiting = [contained(path, path / part)]
    while waiting:
        for entry in sorted(waiting.pop().iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and not entry.is_symlink():
                waiting.append(entry)
                continue
            target = contained(path, entry)
            if not target.is_file():
                raise ValueError(
                    f"{entry} is no file{' (it leads nowhere)' if entry.is_symlink() else ''}; "
                    f"remove it, or {REMEDY}"
                )
            found.append(entry)
    return found


def contained(path: Path, entry: Path) -> Path:
    """Return `entry` if it, followed through all links, lies in the model folder; else ValueError."""
    target, source = entry.resolve(), source_of(path)
    allowed = [path.resolve()] if source is None else [path.resolve(), source.rest.resolve()]
    for root in list(allowed):
        if root.parent.name == "snapshots":  # of the hub's cache: its files are links into blobs/
            allowed.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise ValueError(
            f"{entry} is a link to {target}, outside the model folder {path}; "
            "put a copy in its place if it belongs to the model"
        )
    return entry


def weights(part: Path) -> list[Path]:
    """Return a part's safetensors files, each opened to see that it is whole; the model's one file where that
    holds the part.

    ValueError where there are none, some are missing, or an index names a file elsewhere.
    """
    source = held_by(part.parent, part.name)
    if source is not None:
        _open(source.file)
        return [source.file]
    for name in _WEIGHTS:
        single, index = part / f"{name}.safetensors", part / f"{name}{_SHARDS}"
        files = [single] if single.is_file() else _shards(index) if index.is_file() else []
        for file in files:
            _open(file)
        if files:
            return files
    there = sorted(entry.name for entry in part.iterdir() if entry.suffix != ".json")
    raise ValueError(
        f"{part} has no weights that are read, {' or '.join(n + '.safetensors' for n in _WEIGHTS)}; "
        f"there are {', '.join(there) or 'none at all'}. Pickles are never loaded: convert them, or "
        f"{REMEDY} as safetensors"
    )


def _open(file: Path) -> None:
    file = linked(file)
    with reading(file, "safetensors file", REMEDY), safe_open(file, "pt") as weights:
        if not weights.keys():
            raise ValueError("it holds no tensors")


def _listed(index: dict[str, Any], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and entry[0] is not None


def _shards(index: Path) -> list[Path]:
    content = read_config(index)
    with reading(index, "index of sharded weights", REMEDY):
        names = sorted(set(content["weight_map"].values()))
        foreign = [name for name in names if not _PLAIN.fullmatch(name)]
    if foreign:
        raise ValueError(f"{index} names weights outside its folder, {foreign[0]!r}; {REMEDY}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise ValueError(f"{index.parent} lacks {', '.join(missing) or 'all weights'}; {REMEDY}")
    return [index.parent / name for name in names]


def _usable(part: Path) -> bool:
    if not (part / "config.json").is_file():  # a preprocessor, without weights
        return any(part.glob("*.json"))
    try:
        return bool(weights(part))
    except ValueError:
        return False


def _check_model(part: Path, names: set[str]) -> None:
    config = read_config(part / "config.json")
    weights(part)
    # Both make transformers read other weights, from wherever they say.
    if "adapter_config.json" in names or "transformers_weights" in config:
        source = "adapter_config.json" if "adapter_config.json" in names else "config.json"
        raise ValueError(
            f"{part / source} names weights that are not the part's own; merge them into "
            "model.safetensors and take that file or entry away"
        )


def _check_vocabulary(part: Path, names: set[str]) -> None:
    if not any(files <= names for files in _VOCABULARIES):
        wanted: Sequence[str] = [" with ".join(sorted(files)) for files in _VOCABULARIES]
        raise ValueError(
            f"{part} has no vocabulary, so that all prompts would be alike: it needs one of "
            f"{', '.join(wanted)}, and has {', '.join(sorted(names)) or 'nothing'}. "
            f"{REMEDY.capitalize()}"
        )
