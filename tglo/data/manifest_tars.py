"""Manifests that contain their images: webdataset tars, a sample for each key."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tglo.data.containers import Member, tar_members
from tglo.data.errors import ManifestError
from tglo.data.manifest_rows import Columns, RawRow, number, parse_json

log = logging.getLogger("tglo")

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "avif")
TEXT_SUFFIXES = ("txt", "json", "score", "cls")
MAX_TEXT_BYTES = 2**20  # the most that a .txt, .json, .score or .cls member may have


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


@dataclass
class _Sample:
    """The members of one key."""

    key: str
    names: dict[str, str] = field(default_factory=dict)  # by suffix, in lower case
    problem: str = ""

    def add(self, suffix: str, name: str) -> None:
        if suffix in self.names:
            self.problem = f"has {self.names[suffix]!r} and {name!r}; leave one"
        self.names[suffix] = name

    @property
    def hidden(self) -> str:
        """What looks like the rest of another sample's key, between the first dot and the last; or ""."""
        for stem, lasts in self.dotted.items():
            if {*IMAGE_SUFFIXES} & {*lasts} and {*TEXT_SUFFIXES} & {*lasts}:
                return stem
        return ""

    @property
    def dotted(self) -> dict[str, list[str]]:
        """What follows the key in names with further dots, and the last suffixes that it has."""
        found: dict[str, list[str]] = {}
        for suffix in self.names:
            stem, dot, last = suffix.rpartition(".")
            if dot:
                found.setdefault(stem, []).append(last)
        return found


def read_tars(files: list[Path], columns: Columns) -> Iterator[RawRow]:
    """Yield the samples of webdataset tars.

    The image is KEY.jpg, .png, .webp or .avif, the prompt .txt or .json, the score .score, .cls or .json.
    As in webdataset a key ends at the first dot of the file's name, and a name that starts with a dot
    or has none belongs to no sample.
    """
    line = 0
    for file in files:
        samples: dict[str, _Sample] = {}
        members = tar_members(file)
        for name in members:
            folder, slash, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if stem and dot:
                key = folder + slash + stem
                samples.setdefault(key, _Sample(key)).add(suffix.lower(), name)
        _warn_of_unused(file, samples)
        with open(file, "rb") as handle:
            for sample in samples.values():
                line += 1
                yield _tar_row(handle, file.name, sample, members, columns, line)


def _warn_of_unused(file: Path, samples: dict[str, _Sample]) -> None:
    unused = [
        f"{sample.key}.{stem}.{last}"
        for sample in samples.values()
        for stem, lasts in sample.dotted.items()
        for last in lasts
        if last in IMAGE_SUFFIXES and not sample.hidden
    ]
    if unused:
        log.warning(
            "%s: images that are not used: %d, %s for one; a key ends at the first dot of the name",
            file,
            len(unused),
            unused[0],
        )


def _tar_row(
    handle: BinaryIO,
    file: str,
    sample: _Sample,
    members: dict[str, Member],
    columns: Columns,
    line: int,
) -> RawRow:
    names = sample.names

    def text(suffix: str) -> str:
        member = members[names[suffix]]
        if member.size > MAX_TEXT_BYTES:
            raise ValueError(f".{suffix} has {member.size} bytes, above {MAX_TEXT_BYTES}")
        handle.seek(member.offset)
        return str(handle.read(member.size).decode("utf-8"))

    images = [names[suffix] for suffix in IMAGE_SUFFIXES if suffix in names]
    try:
        if sample.problem:
            raise ValueError(sample.problem)
        if sample.hidden:
            raise ValueError(
                f"{sample.key}.{sample.hidden} looks like a sample of its own, but a key ends at "
                "the first dot of the name; rename its files"
            )
        if len(images) != 1:
            raise ValueError(f"has {len(images)} images (of {list(IMAGE_SUFFIXES)})")
        cells = parse_json(text("json") or "{}") if "json" in names else {}
        if not isinstance(cells, dict):
            raise ValueError(".json is not an object")
        if "txt" in names:
            cells[columns.prompt] = text("txt").rstrip("\r\n")
        suffix = "score" if "score" in names else "cls"
        if suffix in names:
            cells[columns.score] = number(text(suffix))
    except ValueError as error:  # bad UTF-8 and bad JSON too
        return RawRow(line, problem=f"{file}: sample {sample.key!r}: {error}")
    return columns.row(line, {**cells, columns.image: f"{file}#{images[0]}"})
