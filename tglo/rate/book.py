"""What the log amounts to: for each rater and each image the stars, or that it was skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tglo.rate.events import Again, Event, Rate, Skip, Undo, clean_name, key_of

SKIPPED = -1
"""In place of stars; 0 is an image that the rater has still to see."""


class Step(NamedTuple):
    """A rating or skip that can be undone. before: what stood there."""

    id: str
    image: int
    before: int


@dataclass
class Rater:
    """One person's stars (N,) int8, and the way there."""

    name: str
    stars: NDArray[np.int8]
    steps: list[Step] = field(default_factory=list)

    @property
    def rated(self) -> int:
        """The number of images with stars."""
        return int(np.count_nonzero(self.stars > 0))

    @property
    def skipped(self) -> int:
        """The number of images that were skipped."""
        return int(np.count_nonzero(self.stars == SKIPPED))


class Book:
    """The ratings of all raters. samples: the sample id of each image, all different.

    strangers: events about images that are not among them. counts (N,): how many raters gave an image stars.
    is_current: (number of an image, event) -> whether the event is about the image as it is now; others do not count.
    """

    def __init__(
        self,
        samples: Sequence[int],
        events: Iterable[Event] = (),
        is_current: Callable[[int, Rate | Skip], bool] = lambda *_: True,
    ) -> None:
        self.samples = samples
        self._set_aside: dict[str, tuple[str, int]] = {}
        self.raters: dict[str, Rater] = {}
        self.counts = np.zeros(len(samples), np.int16)
        self.strangers = 0
        self._images = {sample: image for image, sample in enumerate(samples)}
        self._seen: set[str] = set()
        for event in events:
            if not self._is_set_aside(event, is_current):
                self.enter(event)

    @property
    def set_aside(self) -> int:
        """The number of ratings that do not count, since their images were replaced."""
        return len({*self._set_aside.values()})

    def has(self, event: Event) -> bool:
        """Return whether an event was entered before."""
        return event.id in self._seen

    def find(self, sample: str) -> int | None:
        """Return the number of the image with a sample id, None if it is not here."""
        return self._images.get(int(sample))

    def rater(self, name: str) -> Rater:
        """Return a rater by name, a new one if need be."""
        name = clean_name(name)
        made = self.raters.get(key_of(name))
        if made is None:
            made = self.raters[key_of(name)] = Rater(name, np.zeros(len(self.samples), np.int8))
        return made

    def enter(self, event: Event) -> None:
        """Take in an event; one that was entered before, or undoes what is not there, changes nothing."""
        if self.has(event):
            return
        self._seen.add(event.id)
        rater = self.rater(event.rater)
        if isinstance(event, Undo):
            if event.of in self._set_aside and self._set_aside[event.of][0] == key_of(rater.name):
                del self._set_aside[event.of]
            self._undo(rater, event.of)
        elif isinstance(event, Again):
            rater.steps = [step for step in rater.steps if rater.stars[step.image] != SKIPPED]
            rater.stars[rater.stars == SKIPPED] = 0
        else:
            image = self.find(event.sample)
            if image is None:
                self.strangers += 1
                return
            rater.steps.append(Step(event.id, image, int(rater.stars[image])))
            self._set(rater, image, event.stars if isinstance(event, Rate) else SKIPPED)

    def _is_set_aside(self, event: Event, is_current: Callable[[int, Rate | Skip], bool]) -> bool:
        image = self.find(event.sample) if isinstance(event, (Rate, Skip)) else None
        if isinstance(event, (Undo, Again)) or image is None or is_current(image, event):
            return False
        rater = self.rater(event.rater)
        if isinstance(event, Rate) and not self.has(event):
            self._set_aside[event.id] = (key_of(rater.name), image)
        self._seen.add(event.id)
        return True

    def _undo(self, rater: Rater, of: str) -> None:
        for place in reversed(range(len(rater.steps))):
            if rater.steps[place].id == of:
                step = rater.steps.pop(place)
                for later in range(place, len(rater.steps)):
                    if (
                        rater.steps[later].image == step.image
                    ):  # rated again since, from another page
                        rater.steps[later] = rater.steps[later]._replace(before=step.before)
                        return
                self._set(rater, step.image, step.before)
                return

    def _set(self, rater: Rater, image: int, stars: int) -> None:
        self.counts[image] += int(stars > 0) - int(rater.stars[image] > 0)
        rater.stars[image] = stars
