"""Trained weights and their optimizer state in a checkpoint as ZeRO shards them: each rank's flat groups in one
safetensors file, and in a JSON file which part of which weight lies where in them.

Read by memory map and by the weights' names, so that any number of processes, each ZeRO stage and the plain engine
take what they need and no process holds the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.optim import Optimizer

from tglo.files import reading
from tglo.train import stored
from tglo.train.contents import Files
from tglo.train.engines.optimizers import check_values
from tglo.train.engines.whole import WEIGHT

VERSION = 1


class Fragment(NamedTuple):
    """A part of a flattened weight, and where it lies in a rank's groups."""

    group: int
    offset: int
    """In the group."""
    start: int
    """In the flattened weight."""
    size: int


class _Version(msgspec.Struct, frozen=True):
    version: int


class Table(msgspec.Struct, frozen=True):
    """What one rank's JSON file says."""

    version: int
    ranks: int
    shapes: dict[str, tuple[int, ...]]
    """Of all trained weights."""
    fragments: dict[str, Fragment]
    """Of this rank: weight -> where it is. A weight of which it has nothing is left out."""
    numbers: list[dict[str, int | float]]
    """group -> what is one number of the optimizer's state; a float where the optimizer keeps a tensor."""


def data_file(rank: int) -> str:
    """Return the name of a rank's tensors: GROUP/weight, and GROUP/KEY of its optimizer state."""
    return f"shard-{rank:05d}.safetensors"


def table_file(rank: int) -> str:
    """Return the name of a rank's JSON."""
    return f"shard-{rank:05d}.json"


def files(
    rank: int,
    ranks: int,
    shapes: Mapping[str, tuple[int, ...]],
    fragments: Mapping[str, Fragment],
    groups: list[Tensor],
    states: list[dict[str, Any]],
) -> Files:
    """Return a rank's groups and their optimizer states as files of a checkpoint, not copied."""
    tensors: dict[str, Tensor] = {}
    numbers: list[dict[str, Any]] = []
    for number, (group, state) in enumerate(zip(groups, states, strict=True)):
        tensors[f"{number}/{WEIGHT}"] = group.detach()
        numbers.append({})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                tensors[f"{number}/{key}"] = value
            else:
                numbers[-1][key] = float(value) if isinstance(value, Tensor) else value
    table = {
        "version": VERSION,
        "ranks": ranks,
        "shapes": shapes,
        "fragments": fragments,
        "numbers": numbers,
    }
    return {data_file(rank): tensors, table_file(rank): json.dumps(table)}


def there(folder: Path) -> bool:
    """Say whether a checkpoint is sharded."""
    return (folder / table_file(0)).is_file()


class Shards:
    """Reads the files of all ranks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _tables(self) -> list[Table]:
        first = _read_table(self.folder / table_file(0))
        others = range(1, first.ranks)
        return [first, *(_read_table(self.folder / table_file(rank)) for rank in others)]

    @cached_property
    def _tensors(self) -> list[dict[str, Tensor]]:
        return [stored.read(self.folder / data_file(rank)) for rank in range(len(self._tables))]

    @cached_property
    def _places(self) -> dict[str, list[tuple[int, Fragment]]]:
        """Weight -> ranks and their fragments, in order of their starts."""
        found: dict[str, list[tuple[int, Fragment]]] = {}
        for rank, table in enumerate(self._tables):
            for name, fragment in table.fragments.items():
                found.setdefault(name, []).append((rank, fragment))
        return {name: sorted(places, key=lambda p: p[1].start) for name, places in found.items()}

    def check(self, optimizer: Optimizer, wanted: Mapping[str, Tensor]) -> None:
        """Raise DamagedFile or OSError unless the fragments make up the wanted weights, with their states."""
        first = self.folder / table_file(0)
        shapes = self._tables[0].shapes
        stored.check_names(first, shapes, wanted)
        for name, weight in wanted.items():
            there = (tuple(shapes[name]), torch.float32)
            stored.check_form(first, name, there, stored.form(weight))
            self._check_whole(name, weight.numel())
        for rank, table in enumerate(self._tables):
            path = self.folder / data_file(rank)
            for group in range(len(table.numbers)):
                self._check_group(optimizer, path, rank, group)

    def _check_whole(self, name: str, count: int) -> None:
        reached = 0
        for rank, fragment in self._places.get(name, []):
            path = self.folder / data_file(rank)
            group = self._tensors[rank].get(f"{fragment.group}/{WEIGHT}")
            end = fragment.offset + fragment.size
            if group is None or min(fragment) < 0 or end > group.numel():
                raise stored.damaged(path, f"it lacks its part of {name}")
            if fragment.start != reached:
                raise stored.damaged(
                    path, f"its part of {name} begins at {fragment.start}, not {reached}"
                )
            reached += fragment.size
        if reached != count:
            path = self.folder / table_file(0)
            raise stored.damaged(path, f"{reached} of {count} elements of {name} are there")

    def _check_group(self, optimizer: Optimizer, path: Path, rank: int, group: int) -> None:
        weight = self._tensors[rank].get(f"{group}/{WEIGHT}")
        if weight is None or weight.dim() != 1 or weight.dtype != torch.float32:
            raise stored.damaged(path, f"its weights {group} are no float32 vector")
        values = self.group_state(rank, group)
        if values:  # none before the first update, which fp16 may have skipped
            check_values(optimizer, weight, values, path, str(group))

    def check_groups(self, rank: int, groups: list[Tensor]) -> None:
        """Raise DamagedFile unless a rank's groups there are as large as these."""
        path = self.folder / data_file(rank)
        for number, group in enumerate(groups):
            found = self._tensors[rank].get(f"{number}/{WEIGHT}", torch.empty(0))
            stored.check_form(path, f"{number}/{WEIGHT}", stored.form(found), stored.form(group))

    def group_state(self, rank: int, group: int) -> dict[str, Any]:
        """Return the optimizer's state of one of a rank's groups, as it was there."""
        prefix = f"{group}/"
        found: dict[str, Any] = {
            name.removeprefix(prefix): tensor
            for name, tensor in self._tensors[rank].items()
            if name.startswith(prefix) and name != prefix + WEIGHT
        }
        for key, value in self._tables[rank].numbers[group].items():
            found[key] = torch.tensor(value) if isinstance(value, float) else value
        return found

    def weight(self, name: str) -> Tensor:
        """Return a weight, put together."""
        return self._whole(name, WEIGHT)

    def state(self, name: str) -> dict[str, Any]:
        """Return the optimizer's state of a weight, put together; empty if it had none."""
        numbers = self.numbers(name)
        if not numbers:
            return {}
        keys = self._keys(name)
        return {key: torch.tensor(value) for key, value in numbers.items()} | {
            key: self._whole(name, key) for key in keys
        }

    def numbers(self, name: str) -> dict[str, float]:
        """Return what is one number of that state."""
        rank, fragment = self._places[name][0]
        numbers = self._tables[rank].numbers[fragment.group]
        return {key: float(value) for key, value in numbers.items()}

    def fill(self, target: Tensor, name: str, key: str, start: int) -> None:
        """Copy the elements of a flattened weight, or of one of its states, from `start` on; nothing if it has none."""
        for rank, fragment, low, high in self._overlaps(name, start, start + target.numel()):
            source = self._tensors[rank].get(f"{fragment.group}/{key}")
            if source is not None:
                place = fragment.offset + low - fragment.start
                target.narrow(0, low - start, high - low).copy_(source.narrow(0, place, high - low))

    def _overlaps(
        self, name: str, start: int, end: int
    ) -> Iterator[tuple[int, Fragment, int, int]]:
        for rank, fragment in self._places[name]:
            low, high = max(start, fragment.start), min(end, fragment.start + fragment.size)
            if low < high:
                yield rank, fragment, low, high

    def _keys(self, name: str) -> list[str]:
        rank, fragment = self._places[name][0]
        prefix = f"{fragment.group}/"
        names = [n.removeprefix(prefix) for n in self._tensors[rank] if n.startswith(prefix)]
        return [key for key in names if key != WEIGHT]

    def _whole(self, name: str, key: str) -> Tensor:
        shape = self._tables[0].shapes[name]
        flat = torch.zeros(math.prod(shape))
        self.fill(flat, name, key, 0)
        return flat.view(tuple(shape))


def _read_table(path: Path) -> Table:
    with reading(path, stored.KIND, stored.REMEDY):
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Version).version
        if version != VERSION:  # whose table may have another form
            raise ValueError(f"it has layout {version}, of another version of tglo")
        table = msgspec.json.decode(content, type=Table)
        groups = {fragment.group for fragment in table.fragments.values()}
        if not groups <= set(range(len(table.numbers))):
            raise ValueError("a part lies in a group that is not there")
        return table
