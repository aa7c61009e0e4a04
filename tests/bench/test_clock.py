"""Spreads, and turns that end for those that have had enough."""

from __future__ import annotations

from tglo.bench.clock import Spread, in_turns, spread, timed, turn_of


def test_spread() -> None:
    found = spread([float(x) for x in range(100, -1, -1)])
    assert found == Spread(50.0, 10.0, 90.0, 0.0, 101)
    assert found.over(2) == Spread(25.0, 5.0, 45.0, 0.0, 101)


def test_contenders_take_turns_until_they_had_enough() -> None:
    order = []

    def turn(name: str, took: float) -> list[float]:
        order.append(name)
        return [took]

    turns = {"slow": lambda: turn("slow", 50.0), "fast": lambda: turn("fast", 1.0)}
    times = in_turns(turns, 5, enough=100.0)
    assert times == {"slow": [50.0] * 3, "fast": [1.0] * 5}
    assert order == ["slow", "fast"] * 3 + ["fast"] * 2
    assert in_turns({"gone": list}, 2) == {"gone": []}


def test_a_turn_has_one_call_at_least_and_the_first_is_not_counted() -> None:
    calls: list[int] = []
    turn = turn_of(lambda: calls.append(1), 0.0)
    before = len(calls)
    assert len(turn()) == 1 and len(calls) == before + 2
    assert timed(lambda: None) >= 0
