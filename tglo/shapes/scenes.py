"""The scenes that the drawings show, and the sentences that ask for them.

A scene is two things, each of a size, a colour and a shape, one above or left of the other. A plain
sentence says so in one form ("a small red circle above a large blue square"); a paraphrase says the
same with other words or in another order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

SIZES = ("small", "large")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "cross")
AXES = ("vertical", "horizontal")

HELD_OUT = (
    ("purple", "circle"),
    ("green", "square"),
    ("blue", "triangle"),
    ("orange", "cross"),
)
"""Colours of shapes that no drawing in the base model's training showed."""

_RELATIONS = {
    "above": ("vertical", False),
    "below": ("vertical", True),
    "left of": ("horizontal", False),
    "right of": ("horizontal", True),
}
"""Words between two things -> axis, and True if the thing named first is the scene's second."""
_SYNONYMS = {
    "tiny": "small",
    "big": "large",
    "over": "above",
    "under": "below",
    "to the left of": "left of",
    "to the right of": "right of",
}
_THING = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_RELATION = f"({'|'.join(_RELATIONS)})"
_FORMS = (
    (re.compile(f"{_THING} {_RELATION} {_THING}"), 0, 3, 4),
    (re.compile(f"{_THING} with {_THING} {_RELATION} it"), 3, 6, 0),
    (re.compile(f"{_RELATION} {_THING} there is {_THING}"), 4, 0, 1),
)
"""Sentences, and where among their words a thing, its relation to the other, and the other begin."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"

    def codes(self) -> tuple[int, int, int]:
        """Return the class numbers of size, colour and shape."""
        return SIZES.index(self.size), COLOURS.index(self.colour), SHAPES.index(self.shape)

    @property
    def held_out(self) -> bool:
        """True if the base model never saw this colour on this shape."""
        return (self.colour, self.shape) in HELD_OUT


@dataclass(frozen=True, slots=True)
class Scene:
    """Two things: ``first`` is above ``second`` (axis vertical), or left of it (horizontal)."""

    axis: str
    first: Thing
    second: Thing

    @property
    def held_out(self) -> bool:
        """True if one of its things is held out."""
        return self.first.held_out or self.second.held_out

    def codes(self) -> tuple[int, ...]:
        """Return seven class numbers: axis, then size, colour and shape of the first and the second."""
        return (AXES.index(self.axis), *self.first.codes(), *self.second.codes())


THINGS = tuple(Thing(*words) for words in product(SIZES, COLOURS, SHAPES))


@lru_cache(maxsize=2)
def all_scenes(held_out: bool) -> tuple[Scene, ...]:
    """Return all scenes of two different things with a held-out one, or all without."""
    scenes = (Scene(axis, a, b) for axis, a, b in product(AXES, THINGS, THINGS) if a != b)
    return tuple(scene for scene in scenes if scene.held_out == held_out)


def plain(scene: Scene) -> tuple[str, str]:
    """Return the scene's two plain sentences; the first names the first thing first."""
    forward, backward = _words(scene.axis)
    return (
        f"{scene.first} {forward} {scene.second}",
        f"{scene.second} {backward} {scene.first}",
    )


def paraphrases(scene: Scene) -> tuple[str, ...]:
    """Return the scene's other sentences: with synonyms, and in two other orders of the words."""
    forward, backward = _words(scene.axis)
    a, b = scene.first, scene.second
    return (
        *(_with_synonyms(sentence) for sentence in plain(scene)),
        f"{a} with {b} {backward} it",
        f"{b} with {a} {forward} it",
        f"{forward} {b} there is {a}",
        f"{backward} {a} there is {b}",
    )


def parse(prompt: str) -> Scene:
    """Return the scene that a plain sentence or paraphrase asks for. ValueError for another text."""
    text = prompt
    for word, meaning in _SYNONYMS.items():
        text = re.sub(rf"\b{word}\b", meaning, text)
    for form, first, relation, second in _FORMS:
        if match := form.fullmatch(text):
            words = match.groups()
            axis, swapped = _RELATIONS[words[relation]]
            named, other = Thing(*words[first : first + 3]), Thing(*words[second : second + 3])
            return Scene(axis, other, named) if swapped else Scene(axis, named, other)
    raise ValueError(
        f"{prompt!r} does not ask for a scene of this world; write for example {plain(EXAMPLE)[0]!r} "
        "(the words are in tglo.shapes.scenes), or score other prompts with another scorer"
    )


def prompt_set(name: str, count: int, seed: int = 0) -> list[str]:
    """Return ``count`` sentences for different scenes. The sets of one seed share no scene.

    train, validation and seen are plain sentences of scenes that the base model knows, unseen are plain
    sentences with a held-out thing, and paraphrases are paraphrases of scenes that it knows.
    """
    names = ("train", "validation", "seen", "paraphrases", "unseen")
    if name not in names:
        raise ValueError(f"there is no prompt set {name!r}; known are {', '.join(names)}")
    generator = np.random.default_rng((seed, 29))
    scenes = all_scenes(held_out=name == "unseen")
    order = generator.permutation(len(scenes))
    share = len(scenes) if name == "unseen" else len(scenes) // 4
    start = 0 if name == "unseen" else names.index(name) * share
    if not 0 < count <= share:
        raise ValueError(f"the set {name} has from 1 to {share} prompts, got {count}")
    sentences = paraphrases if name == "paraphrases" else plain
    chosen = []
    for index in order[start : start + count]:
        choices = sentences(scenes[index])
        chosen.append(choices[generator.integers(len(choices))])
    return chosen


def sentences() -> Iterator[str]:
    """Yield texts that together contain every word of the world."""
    for thing in THINGS:
        for axis in AXES:
            for scene in (Scene(axis, thing, EXAMPLE.second), Scene(axis, EXAMPLE.first, thing)):
                yield from plain(scene)
                yield from paraphrases(scene)


def _words(axis: str) -> tuple[str, str]:
    """Return the axis's two relations: of the first to the second, and of the second to the first."""
    return ("above", "below") if axis == "vertical" else ("left of", "right of")


def _with_synonyms(sentence: str) -> str:
    for word, meaning in _SYNONYMS.items():
        sentence = re.sub(rf"\b{meaning}\b", word, sentence)
    return sentence


EXAMPLE = Scene("vertical", Thing("small", "red", "circle"), Thing("large", "blue", "square"))
