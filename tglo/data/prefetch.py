"""Computes a little ahead, in threads, and returns results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yield function(item) in the order of the items, at most `ahead` of them computed in advance."""
    iterator = iter(items)
    queue = deque(pool.submit(function, item) for item in islice(iterator, ahead))
    while queue:
        result = queue.popleft().result()
        queue.extend(pool.submit(function, item) for item in islice(iterator, 1))
        yield result
