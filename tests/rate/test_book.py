"""The log's events amount to stars by rater and image, however often and in whichever pieces they are entered."""

from __future__ import annotations

import random

import numpy as np

from tests.rate.conftest import new_id
from tglo.rate.book import SKIPPED, Book
from tglo.rate.events import Again, Event, Rate, Skip, Undo

SAMPLES = [5, 2**62, 7, 9]


def rate(image: int, stars: int, rater: str = "Ann") -> Rate:
    return Rate(id=new_id(), rater=rater, sample=str(SAMPLES[image]), stars=stars)


def skip(image: int, rater: str = "Ann") -> Skip:
    return Skip(id=new_id(), rater=rater, sample=str(SAMPLES[image]))


def undo(event: Event, rater: str = "Ann") -> Undo:
    return Undo(id=new_id(), rater=rater, of=event.id)


def stars_of(events: list[Event], rater: str = "Ann") -> list[int]:
    found: list[int] = Book(SAMPLES, events).rater(rater).stars.tolist()
    return found


def test_the_last_word_counts() -> None:
    assert stars_of([rate(0, 3), rate(0, 4), skip(1), rate(3, 5, "Bob")]) == [4, SKIPPED, 0, 0]
    assert stars_of([rate(3, 5, "Bob"), rate(3, 1, "BOB")], "bob") == [0, 0, 0, 1]


def test_undo_goes_back_step_by_step() -> None:
    first, second, third = rate(0, 3), rate(0, 4), skip(1)
    events: list[Event] = [first, second, third]
    for step, left in ((third, [4, 0]), (second, [3, 0]), (first, [0, 0])):
        events.append(undo(step))
        assert stars_of(events)[:2] == left
    events += [undo(first), undo(rate(2, 1)), undo(rate(3, 5, "Bob"), "Bob")]
    assert stars_of(events) == [0, 0, 0, 0]


def test_an_older_rating_of_an_image_is_undone_before_a_newer() -> None:
    """As from two pages of one rater: what was taken back does not come again with the next undo."""
    first, second, third = rate(0, 3), rate(0, 4), skip(0)
    events: list[Event] = [first, second, third, undo(second)]
    assert stars_of(events)[0] == SKIPPED
    events.append(undo(third))
    assert stars_of(events)[0] == 3
    events.append(undo(first))
    book = Book(SAMPLES, events)
    assert book.rater("Ann").stars[0] == 0 and not book.counts.any()


def test_nobody_undoes_for_another() -> None:
    mine = rate(0, 3)
    assert stars_of([mine, undo(mine, "Bob")]) == [3, 0, 0, 0]


def test_skipped_images_come_again() -> None:
    given, passed = rate(0, 3), skip(1)
    events: list[Event] = [given, passed, Again(id=new_id(), rater="Ann")]
    assert stars_of(events) == [3, 0, 0, 0]
    events += [rate(1, 2), undo(passed)]
    assert stars_of(events) == [3, 2, 0, 0]


def test_what_is_sent_twice_counts_once() -> None:
    chance = random.Random(0)
    events: list[Event] = []
    for _ in range(300):
        rater, image = chance.choice(["Ann", "Bob"]), chance.randrange(4)
        made: list[Event] = [rate(image, chance.randint(1, 5), rater), skip(image, rater)]
        if events:
            made.append(undo(chance.choice(events), rater))
        events.append(chance.choice(made))
    once, twice = Book(SAMPLES, events), Book(SAMPLES)
    for number, event in enumerate(events):
        for again in events[max(0, number - 3) : number + 1]:
            twice.enter(again)
        assert twice.has(event)
    for name in ("Ann", "Bob"):
        assert once.rater(name).stars.tolist() == twice.rater(name).stars.tolist()
        assert once.rater(name).steps == twice.rater(name).steps
    given = np.stack([once.rater(name).stars > 0 for name in ("Ann", "Bob")])
    assert given.any() and once.counts.tolist() == given.sum(axis=0).tolist()


def test_images_that_are_not_here() -> None:
    other = Rate(id=new_id(), rater="Ann", sample="1", stars=5)
    book = Book(SAMPLES, [other, rate(0, 2), undo(other)])
    assert book.strangers == 1 and book.rater("Ann").stars.tolist() == [2, 0, 0, 0]
