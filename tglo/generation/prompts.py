"""Sets of prompts: the published ones from their files, and your own from a text, JSON or CSV file.

    name       prompts  file
    pickapic       424  test split of yuvalkirstain/pickapic_v2: a Parquet file or a folder of them
                        (or CSV, JSON lines) with the column caption; its distinct captions (copies
                        of the split differ: one has 487)
    parti        1,632  PartiPrompts.tsv of github.com/google-research/parti; Category
    hpsv2        3,200  folder with anime.json, concept-art.json, paintings.json and photo.json of
                        the data set zhwang/HPDv2, 800 each; the file's name is the category. 28 of
                        them repeat another's prompt and count all the same

The counts are those of arXiv 2605.04653. A set of another size is refused under these names, so that
no number is compared with a published one that was measured on something else; of pickapic, of which
there is no one file, the log warns instead.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("tglo")
HPSV2_STYLES = ("anime", "concept-art", "paintings", "photo")
HPSV2_EACH = 800
COLUMNS = ("prompt", "caption", "text")


@dataclass(frozen=True)
class PromptSet:
    """Prompts under a name, distinct unless the set is published with repeated ones; categories has one
    for each prompt, or is empty.
    """

    name: str
    prompts: tuple[str, ...]
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A published set: how many prompts it has, (path) -> (prompt, category) pairs, and whether its copies
    differ in number.
    """

    count: int
    read: Callable[[Path], list[tuple[str, str]]]
    varies: bool = False


def load_prompts(name: str, path: Path) -> PromptSet:
    """Load the set `name`: one of PUBLISHED, of which the count is checked, or a file of your own.

    A prompt that a file of your own repeats is taken once; a published set is taken entry by entry, as
    its published averages are. Raises ValueError for a missing file or column, a file without
    prompts, and a published set of another count; of one whose copies differ the log warns.
    """
    published = PUBLISHED.get(name)
    if published is None:
        distinct: dict[str, str] = {}
        for prompt, category in read_pairs(path):
            distinct.setdefault(prompt, category)
        pairs = list(distinct.items())
    else:
        pairs = published.read(path)
        _check_count(name, path, published, len(pairs))
    prompts, categories = zip(*pairs, strict=True)
    return PromptSet(name, prompts, categories if all(categories) else ())


def _check_count(name: str, path: Path, published: Published, found: int) -> None:
    if found == published.count:
        return
    more = "fewer" if found < published.count else "more"
    text = (
        f"{path} has {found} prompts, {abs(published.count - found)} {more} than the "
        f"{published.count} of {name}"
    )
    if found == 0 or not published.varies:
        raise ValueError(f"{text}; get the published file, or give yours another name than {name}")
    log.warning("%s in arXiv 2605.04653: copies differ, so compare only numbers of one copy", text)


def read_prompts(path: Path) -> list[str]:
    """Read the prompts of a file of your own, repeated ones too; see `read_pairs`."""
    return [prompt for prompt, _ in read_pairs(path)]


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read pairs (prompt, category or "") from a file, by its suffix, without white space around them.

    .json: a list of texts or of objects; .jsonl: an object a line; .csv, .tsv: a header. Objects and
    headers name a prompt (or caption, or text) and may name a category. Anything else is text with a
    prompt on each line; empty lines do not count. Raises ValueError when the file is missing, cannot be
    read so, or has no prompt.
    """
    _need(path)
    suffix = path.suffix.lower()
    with _reading(path):
        if suffix == ".json":
            content = json.loads(path.read_text("utf-8"))
            if not isinstance(content, list):
                raise ValueError(f"holds a {type(content).__name__}, not a list")
            pairs = _pairs(content)
        elif suffix == ".jsonl":
            lines = path.read_text("utf-8").split("\n")  # splitlines takes U+2028, too
            pairs = _pairs([json.loads(line) for line in lines if line.strip()])
        elif suffix in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as file:
                pairs = _pairs(csv.DictReader(file, delimiter="," if suffix == ".csv" else "\t"))
        else:
            pairs = [(line.strip(), "") for line in path.read_text("utf-8-sig").split("\n")]
        pairs = [pair for pair in pairs if pair[0]]
        _check_texts(pairs)
    if not pairs:
        raise ValueError(f"{path} has no prompts; write one on each line")
    return pairs


def _pickapic(path: Path) -> list[tuple[str, str]]:
    _need(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no Parquet files; give those of Pick-a-Pic's test split")
    captions: list[str] = []
    for file in files:
        parquet = file.suffix.lower() == ".parquet"
        captions += _parquet_captions(file) if parquet else read_prompts(file)
    return [(caption, "") for caption in dict.fromkeys(captions) if caption]


def _parquet_captions(path: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        captions = parquet.read_table(path, columns=["caption"])["caption"].to_pylist()
    except (pa.ArrowException, KeyError, UnicodeError) as error:
        raise ValueError(f"{path} gives no column 'caption': {error}") from None
    return [str(caption).strip() for caption in captions if caption is not None]


def _parti(path: Path) -> list[tuple[str, str]]:
    _need(path)
    with _reading(path), path.open(encoding="utf-8", newline="") as file:
        # A quotation mark in this file is part of the prompt.
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"Prompt", "Category"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"it has no column {sorted(missing)}; give PartiPrompts.tsv")
        pairs = [((row["Prompt"] or "").strip(), (row["Category"] or "").strip()) for row in rows]
        pairs = [pair for pair in pairs if pair[0]]
        _check_texts(pairs)
        return pairs


def _hpsv2(path: Path) -> list[tuple[str, str]]:
    files = {style: path / f"{style}.json" for style in HPSV2_STYLES}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)} of the HPSv2 benchmark")
    pairs = []
    for style, file in files.items():
        prompts = read_prompts(file)
        if len(prompts) != HPSV2_EACH:
            raise ValueError(f"{file} has {len(prompts)} prompts; the benchmark's has {HPSV2_EACH}")
        pairs += [(prompt, style) for prompt in prompts]
    return pairs


PUBLISHED = {
    "pickapic": Published(424, _pickapic, varies=True),
    "parti": Published(1632, _parti),
    "hpsv2": Published(4 * HPSV2_EACH, _hpsv2),
}


def _need(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"the file of prompts {path} does not exist")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what parsing a file raises into ValueError with its path."""
    try:
        yield
    except (ValueError, csv.Error, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        cause = "it is nested too deeply" if deep else error
        raise ValueError(f"no prompts can be read from {path}: {cause}") from None


def _check_texts(pairs: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError for texts that are none: with a NUL, as in UTF-16, or half a character."""
    for number, pair in enumerate(pairs, start=1):
        for text in pair:
            if "\0" in text:
                raise ValueError(
                    f"prompt {number} has a NUL character, {text[:40]!r}; remove it, or save the "
                    "file as UTF-8 if it is UTF-16"
                )
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(
                    f"prompt {number} has half a surrogate pair, {text[:40]!r}; mend that text"
                )


def _pairs(entries: Iterable[Any]) -> list[tuple[str, str]]:
    """Return the pairs of texts, or of mappings whose keys are compared without case."""
    pairs = []
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, str):
            entry = {COLUMNS[0]: entry}
        if not isinstance(entry, dict):
            kind = type(entry).__name__
            raise ValueError(f"entry {number} is a {kind}, not a text or an object")
        fields = {str(key).lower(): value for key, value in entry.items()}
        prompt = next((fields[name] for name in COLUMNS if name in fields), None)
        if not isinstance(prompt, str):
            raise ValueError(
                f"entry {number} has no text as {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
            )
        pairs.append((prompt.strip(), str(fields.get("category") or "").strip()))
    return pairs
