"""Configurations from and to TOML, JSON and single keys; strict, with the nearest of what is unknown."""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from tglo.files import reading
from tglo.redaction import redacted_plain, refuse_url
from tglo.settings import nearest
from tglo.train.config import TrainConfig
from tglo.train.config_types import config_type
from tglo.train.recipes import expanded, with_recipe

# Keys of older files -> where they stand now.
MOVED = {
    "objective.positive_weight": "objective.kto.positive_weight",
    "objective.negative_weight": "objective.kto.negative_weight",
    "objective.good_marker": "objective.csft.good_marker",
    "objective.bad_marker": "objective.csft.bad_marker",
}


def load_config(path: str | Path) -> TrainConfig:
    """Read a TOML file. ValueError names an unknown key and the nearest ones, a wrong type, or a file that
    is no TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config file {path} does not exist")
    with reading(path, "TOML file", "mend it, and save it as UTF-8"):
        data = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    return parse_config(data, str(path))


def parse_config(data: dict[str, Any], source: str = "config") -> TrainConfig:
    """Build a TrainConfig from nested plain data, strictly: no unknown key, no wrong type.

    Passwords and tokens are taken out here: what a run knows of its configuration, it stores.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{source} holds {type(data).__name__}, not the tables of a configuration")
    try:
        data = redacted_plain(data)
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply for a configuration") from None
    refuse_url(str(_at(data, "model", "path")), f"{source}: model.path")
    data = expanded(with_moved_keys(data, source))
    kind = config_type(data)
    _refuse_unknown(data, kind, "", source)
    try:
        return msgspec.convert(data, kind, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ValueError(f"{source}: {error}") from None


def with_moved_keys(data: dict[str, Any], source: str = "config") -> dict[str, Any]:
    """Return a copy of nested plain data in which older keys stand where they belong now. ValueError where
    both are set.
    """
    data = copy.deepcopy(data)
    for old, new in MOVED.items():
        section, name = old.split(".")
        values, table = data.get(section), new.split(".")[1]
        if isinstance(values, dict) and name in values:
            own = values.get(table)
            if isinstance(own, dict) and name in own:
                raise ValueError(f"{source}: {old} is now {new}, and both are set; leave {old} out")
            put(data, new, values.pop(name))
    return data


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """Return nested plain data (JSON and TOML types, None left out): parse_config's inverse, but for
    passwords and tokens.
    """
    plain = redacted_plain(msgspec.to_builtins(dataclasses.asdict(config), enc_hook=str))
    if plain["objective"]["confidence"] == math.inf:
        plain["objective"]["confidence"] = "inf"  # JSON has no number for it
    return {key: _without_none(value) for key, value in plain.items()}


def _without_none(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without_none(entry) for name, entry in value.items() if entry is not None}


def put(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set a key such as "objective.beta", or an older one's, in nested plain data. ValueError if a
    table of its path is a value. A recipe sets the keys that it stands for, too.
    """
    if key == "recipe":
        plain.update(with_recipe(plain, value))
        return
    *path, last = MOVED.get(key, key).split(".")
    place = plain
    for name in path:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise ValueError(f"{key}: {name} is a value, not a table")
    place[last] = value


def _at(data: dict[str, Any], section: str, name: str) -> Any:
    values = data.get(section)
    return values.get(name, "") if isinstance(values, dict) else ""


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected a path as text, got {value!r}")


def _refuse_unknown(data: dict[str, Any], kind: type, prefix: str, source: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    kinds = get_type_hints(kind)
    for key, value in data.items():
        if key not in fields:
            moved = [
                k.removeprefix(prefix) for k in MOVED.values() if prefix and k.startswith(prefix)
            ]
            hint = _elsewhere(key, prefix) or nearest(key, [*fields, *moved])
            raise ValueError(f"{source}: unknown key {prefix}{key}; {hint}")
        default = fields[key].default_factory
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise ValueError(f"{source}: [{prefix}{key}] must be a table, got {value!r}")
            _refuse_unknown(value, default, f"{prefix}{key}.", source)  # type: ignore[arg-type]
        choices = _choices(kinds[key])
        if choices and isinstance(value, str) and value not in choices:
            raise ValueError(f"{source}: {prefix}{key} is {value!r}; {nearest(value, choices)}")


def _elsewhere(key: str, prefix: str) -> str:
    """Return a hint at the sections that have a key of this name; "" if there are none."""
    found = [
        f"{section.name}.{key}"
        for section in dataclasses.fields(TrainConfig)
        if dataclasses.is_dataclass(section.default_factory)
        and prefix != f"{section.name}."
        and key in {f.name for f in dataclasses.fields(section.default_factory)}
    ]
    return f"there is {' and '.join(found)}" if found else ""


def _choices(kind: Any) -> list[str]:
    """Return the words that a Literal of words allows; none for another type."""
    words = list(get_args(kind)) if get_origin(kind) is Literal else []
    return words if all(isinstance(word, str) for word in words) else []
