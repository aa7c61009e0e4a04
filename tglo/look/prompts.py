"""Prompts: how many images each has, how far its scores are apart, and which are written in two ways."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tglo.look.sheet import Sheet

SHOWN = 10
_EDGES = (1, 2, 3, 4, 8, 16)
"""The images of a prompt: 1, 2, 3, 4 to 7, ..."""


@dataclass(frozen=True)
class Spread:
    """The scores of one prompt."""

    prompt: str
    images: int
    lowest: float
    highest: float


@dataclass(frozen=True)
class PromptFacts:
    """What is known of the prompts by themselves.

    numbers: images of a prompt -> how many prompts have so many. single: prompts with one image.
    widest: those whose scores are furthest apart. alike: prompts that differ from another one by case or spaces
    alone, and `alike_shown` some of them.
    """

    count: int
    least: int
    median: float
    most: int
    single: int
    numbers: dict[str, int]
    widest: list[Spread]
    alike: int
    alike_shown: list[list[str]]


def prompt_facts(sheet: Sheet) -> PromptFacts:
    """Describe the prompts of all rows; the scores' spread of those with several."""
    counts = np.bincount(sheet.prompt_of)
    alike = _alike(sheet.prompts)
    return PromptFacts(
        count=counts.size,
        least=int(counts.min()),
        median=float(np.median(counts)),
        most=int(counts.max()),
        single=int((counts == 1).sum()),
        numbers=_numbers(counts),
        widest=_widest(sheet),
        alike=sum(map(len, alike)),
        alike_shown=alike[:SHOWN],
    )


def _numbers(counts: NDArray[np.int64]) -> dict[str, int]:
    edges = [*_EDGES, np.inf]
    found = {}
    for low, high in pairwise(edges):
        number = int(((counts >= low) & (counts < high)).sum())
        text = f"{low} or more" if high == np.inf else f"{low} to {high - 1:g}"
        found[str(low) if high == low + 1 else text] = number
    return found


def _widest(sheet: Sheet) -> list[Spread]:
    rows = sheet.scored
    if not rows.size:
        return []
    numbers, scores = sheet.prompt_of[rows], sheet.scores[rows]
    order = np.lexsort((scores, numbers))
    numbers, scores = numbers[order], scores[order]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = np.append(starts[1:], numbers.size) - 1
    apart = scores[ends] - scores[starts]
    widest = np.argsort(-apart, kind="stable")[:SHOWN]
    return [
        Spread(
            sheet.prompts[numbers[starts[group]]],
            int(ends[group] - starts[group] + 1),
            float(scores[starts[group]]),
            float(scores[ends[group]]),
        )
        for group in widest.tolist()
        if apart[group] > 0
    ]


def _alike(prompts: list[str]) -> list[list[str]]:
    seen: dict[int, str] = {}  # by a hash: a million prompts need not be kept in a second form
    groups: dict[str, list[str]] = {}
    for prompt in prompts:
        first = seen.setdefault(hash(_plain(prompt)), prompt)
        if first is not prompt and _plain(first) == _plain(prompt):
            groups.setdefault(first, [first]).append(prompt)
    return list(groups.values())


def _plain(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
