"""Sequences of few different values, such as prompts and buckets: the values, and a code for each place."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=Hashable)
Codes = NDArray[np.integer[Any]]
_BLOCK = 65536  # codes that are turned into values at once


class Coded(Sequence[T], Generic[T]):
    """A sequence whose place i has `names[codes[i]]`; names differ from each other, and some may have no place.

    It equals any sequence of the same values. 4 or 8 bytes a place, whatever the values are.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, names: Sequence[T], codes: Codes) -> None:
        self.names = names
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Coded[T]: ...
    def __getitem__(self, place: int | slice) -> T | Coded[T]:
        if isinstance(place, slice):
            return self.take(place)
        return self.names[int(self.codes[place])]

    def __iter__(self) -> Iterator[T]:
        names = self.names
        for start in range(0, len(self), _BLOCK):
            yield from [names[code] for code in self.codes[start : start + _BLOCK].tolist()]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Coded({len(self)} places, {len(self.names)} names)"

    def take(self, places: Any) -> Coded[T]:
        """Return the values of places, given as numpy indexes: numbers, a mask or a slice."""
        return Coded(self.names, self.codes[places])


def as_coded(values: Sequence[T]) -> Coded[T]:
    """Return the values as they are if they are coded, else with a code for each place."""
    return values if isinstance(values, Coded) else Coded(*numbered(values))


def numbered(values: Sequence[T]) -> tuple[list[T], NDArray[np.int64]]:
    """Return the different values in the order in which they first come, and each place's number among them."""
    if isinstance(values, Coded):
        return _renumbered(values)
    places: dict[T, int] = {}
    rows = (places.setdefault(value, len(places)) for value in values)
    numbers = np.fromiter(rows, dtype=np.int64, count=len(values))
    return list(places), numbers


def first_come(codes: Codes, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the codes below `count` that occur, in the order in which they first come, and each place's number
    in that order.
    """
    first = np.full(count, len(codes), dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of equal codes the last write stays
    found = np.flatnonzero(first < len(codes))
    found = found[np.argsort(first[found], kind="stable")]
    number_of = np.empty(count, dtype=np.int64)
    number_of[found] = np.arange(len(found))
    return found, number_of[codes]


def _renumbered(values: Coded[T]) -> tuple[list[T], NDArray[np.int64]]:
    found, numbers = first_come(values.codes, len(values.names))
    names = values.names if 2 * len(found) < len(values.names) else list(values.names)
    return [names[code] for code in found.tolist()], numbers
