"""Manifests that contain their images: a folder of `datasets.save_to_disk`, and webdataset tars."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tglo.data.containers import Member, read_arrow, tar_members
from tglo.data.errors import ManifestError
from tglo.data.manifest_rows import Columns, RawRow, arrow_rows, number
from tglo.files import read_json

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_TEXT_BYTES = 2**20  # the most that a .txt, .json, .score or .cls member may have


def read_dataset(folder: Path, columns: Columns) -> Iterator[RawRow]:
    """Yield the rows of a `datasets.save_to_disk` folder; images stay in their memory-mapped file."""
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits") or ["train"]
        raise ManifestError(
            f"{folder} holds the splits {splits}: give one, as {folder / splits[0]}"
        )
    if not (folder / "state.json").is_file():
        raise ManifestError(
            f"{folder} is not a manifest: it has neither .tar files nor the state.json of "
            "datasets.save_to_disk"
        )
    state = read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise ManifestError(
            f"{folder} stores indices apart: call flatten_indices() and save it again"
        )
    line = 1
    for entry in state["_data_files"]:
        name = entry["filename"]
        if name in ("", ".", "..") or "/" in name or (folder / name).is_symlink():
            raise ManifestError(
                f"{folder / 'state.json'} names {name!r}, which is outside the folder; refused"
            )
        table = read_arrow(folder / name)
        columns.check(table.column_names, folder)
        images = _arrow_images(table, columns.image, name)
        yield from arrow_rows(table, columns, images, line)
        line += table.num_rows


def _arrow_images(table: Any, column: str, file: str) -> list[Any]:
    """Return paths where the column holds paths, and references into the file where it holds bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.column(column)
    if pa.types.is_struct(cells.type):
        embedded = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
        paths = pc.struct_field(cells, "path").to_pylist()
    elif pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        embedded = pc.is_valid(cells).to_pylist()
        paths = [None] * len(embedded)
    else:
        return list(cells.to_pylist())
    return [
        f"{file}#{column}/{i}" if inside else path
        for i, (inside, path) in enumerate(zip(embedded, paths, strict=True))
    ]


def tar_files(path: Path) -> list[Path]:
    """Return the tars that a path names: one tar, a {000..009} pattern, or a folder of them; else []."""
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if not path.name.endswith(".tar"):
        if path.name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
            raise ManifestError(f"{path} is compressed: decompress it, members are read in place")
        return []
    files = [path.with_name(name) for name in _expand(path.name)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ManifestError(f"{len(missing)} of {len(files)} tars are missing: {missing[:10]}")
    return files


def _expand(name: str) -> list[str]:
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", name)
    choices: list[list[str]] = [[parts[0]]]
    for first, last, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if int(last) < int(first):
            raise ManifestError(f"{name}: the range {{{first}..{last}}} is empty")
        choices.append([f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)])
        choices.append([text])
    return ["".join(pieces) for pieces in itertools.product(*choices)]


def read_tars(files: list[Path], columns: Columns) -> Iterator[RawRow]:
    """Yield the samples of webdataset tars.

    The image is KEY.jpg, .png or .webp, the prompt .txt or .json, the score .score, .cls or .json.
    """
    line = 0
    for file in files:
        samples: dict[str, dict[str, str]] = {}
        members = tar_members(file)
        for name in members:
            folder, slash, base = name.rpartition("/")
            key, _, suffix = base.partition(".")
            samples.setdefault(folder + slash + key, {})[suffix.lower()] = name
        with open(file, "rb") as handle:
            for key, names in samples.items():
                line += 1
                yield _tar_row(handle, file.name, key, names, members, columns, line)


def _tar_row(
    handle: Any,
    file: str,
    key: str,
    names: dict[str, str],
    members: dict[str, Member],
    columns: Columns,
    line: int,
) -> RawRow:
    def text(suffix: str) -> str:
        member = members[names[suffix]]
        if member.size > MAX_TEXT_BYTES:
            raise ValueError(f".{suffix} has {member.size} bytes, above {MAX_TEXT_BYTES}")
        handle.seek(member.offset)
        return str(handle.read(member.size).decode("utf-8"))

    images = [names[suffix] for suffix in IMAGE_SUFFIXES if suffix in names]
    if len(images) != 1:
        problem = f"{file}: sample {key!r} has {len(images)} images (of {list(IMAGE_SUFFIXES)})"
        return RawRow(line, problem=problem)
    try:
        cells = json.loads(text("json") or "{}") if "json" in names else {}
        if not isinstance(cells, dict):
            raise ValueError(".json is not an object")
        if "txt" in names:
            cells[columns.prompt] = text("txt").rstrip("\r\n")
        suffix = "score" if "score" in names else "cls"
        if suffix in names:
            cells[columns.score] = number(text(suffix))
    except ValueError as error:  # bad UTF-8 and bad JSON too
        return RawRow(line, problem=f"{file}: sample {key!r}: {error}")
    return columns.row(line, {**cells, columns.image: f"{file}#{images[0]}"})
