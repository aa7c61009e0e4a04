"""The ways in which a file is damaged: each returns what it did, in words."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _flip(path: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return " not: it is empty"
    place, bits = chance.randrange(len(data)), 1 << chance.randrange(8)
    data[place] ^= bits
    path.write_bytes(data)
    return f" at byte {place} by {bits}"


def _truncate(path: Path, chance: random.Random) -> str:
    size = path.stat().st_size
    rest = chance.randrange(size) if size else 0
    os.truncate(path, rest)
    return f" to {rest} of {size} bytes"


def _empty(path: Path, _: random.Random) -> str:
    path.write_bytes(b"")
    return ""


def _remove(path: Path, _: random.Random) -> str:
    path.unlink()
    return ""


def _folder(path: Path, _: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return ""


def _replace(path: Path, chance: random.Random) -> str:
    kinds = {
        "a pickle": pickle.dumps({"step": [1, 2, 3]}),
        "an empty JSON object": b"{}",
        "a JSON list": b"[1, 2]",
        "null": b"null",
        "deep JSON": b"[" * 100_000,
        "noise": chance.randbytes(5_000),
        "zeros": bytes(max(1, path.stat().st_size)),
        "a PNG's start": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "an empty safetensors file": (2).to_bytes(8, "little") + b"{}",
        "latin-1": "é\n".encode("latin-1") * 50,
    }
    kind = chance.choice(list(kinds))
    path.write_bytes(kinds[kind])
    return f" {kind}"


def _edit(path: Path, chance: random.Random) -> str:
    """Take a key away from a JSON file, or give it a value of another type."""
    content = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            places.append((value, key))
            if isinstance(inner, (dict, list)):
                walk(inner)

    walk(content)
    place, key = chance.choice(places[:200])
    values = [None, "text", -1, 3.5, [], {}, True, "../up", 10**30]
    value = chance.choice(values)
    if chance.random() < 0.3:
        del place[key]
        path.write_text(json.dumps(content))
        return f": without {key!r}"
    place[key] = value
    path.write_text(json.dumps(content))
    return f": {key!r} = {value!r}"


WAYS: dict[str, Callable[[Path, random.Random], str]] = {
    "flipped": _flip,
    "truncated": _truncate,
    "emptied": _empty,
    "removed": _remove,
    "made a folder": _folder,
    "replaced by": _replace,
    "edited": _edit,
}
