"""The grid of a sweep: which keys take which values, and the configuration of every point."""

from __future__ import annotations

import copy
import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tglo.train.config import TrainConfig
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config, put, to_plain

Variations = Mapping[str, Sequence[Any]]
"""Key of the configuration, as objective.beta -> its values."""


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    values: dict[str, Any]
    config: TrainConfig

    @property
    def name(self) -> str:
        """A folder name that tells the values apart."""
        text = "_".join(f"{key.split('.')[-1]}-{value}" for key, value in self.values.items())
        return re.sub(r"[^\w.+-]", "-", text)


def parse_variations(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Parse "objective.beta=0.5,1,2" and its like; returns values by key, numbers and words as in TOML.

    Raises ValueError for a text of another form, a key or a value that comes twice.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        parsed = [_value(part) for part in values.split(",") if part]
        if not (key and equals and parsed):
            raise ValueError(f"{text!r} varies nothing; write KEY=VALUE,VALUE,... for --vary")
        if key in found or len({repr(value) for value in parsed}) != len(parsed):
            raise ValueError(f"--vary {text}: a key and each of its values may come only once")
        found[key] = parsed
    if not found:
        raise ValueError("a sweep needs at least one --vary KEY=VALUE,VALUE,...")
    return found


def points(config: TrainConfig, variations: Variations, output: Path) -> list[Point]:
    """Return the configurations of the grid, the last key fastest; each has a folder of its own in output.

    Raises ValueError naming the key (and the nearest ones) or the value that a configuration cannot have.
    """
    base = to_plain(config)
    result = []
    for combination in itertools.product(*variations.values()):
        plain, values = copy.deepcopy(base), dict(zip(variations, combination, strict=True))
        # A recipe sets other keys: first, so that one that varies, too, stays.
        for key, value in sorted(values.items(), key=lambda item: item[0] != "recipe"):
            try:
                put(plain, key, value)
            except ValueError as error:
                raise ValueError(f"--vary {error}") from None
        name = Point(values, config).name
        plain["output"]["folder"] = str(output / name)
        point = Point(values, parse_config(plain, f"--vary {name}"))
        check(point.config)
        result.append(point)
    return result


def _value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if value in (math.inf, -math.inf) else value  # results are JSON, which has no inf
