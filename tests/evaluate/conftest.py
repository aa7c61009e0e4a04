"""Made-up results of an evaluation, with awkward names."""

from __future__ import annotations

import pytest

from tglo.evaluate.results import Results


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


@pytest.fixture
def content() -> Results:
    names = ("base", "tgo_1", "sft")
    scorers = ("a|b", "m:f_1")
    models = {
        name: {
            "diversity": estimate(20.0),
            "scores": {
                s: {"trained_on": (name, s) == ("tgo_1", "a|b"),
                    "mean": estimate(1.25), "median": estimate(123456.0)}
                for s in scorers
            },
        }
        for name in names
    }  # fmt: skip
    rates = {s: {m: {o: estimate(0.625) for o in names if o != m} for m in names} for s in scorers}
    gains = {"m:f_1": (-0.3, -0.4, -0.2), "a|b": (0.05, -0.05, 0.15)}
    differences = {
        s: {m: {o: dict(zip(("value", "low", "high"), gains[s], strict=True)) for o in names if o != m}
            for m in names}
        for s in scorers
    }  # fmt: skip
    diversity = {m: {o: estimate(2.0) for o in names if o != m} for m in names}
    compared = {"differences": differences, "diversity_differences": diversity}
    categories = {
        "R&D": {
            "prompts": 2,
            "win_rates": {s: {m: estimate(0.5) for m in names[1:]} for s in scorers},
        }
    }
    entry = {"prompts": 3, "images": 6, "models": models, "win_rates": rates, **compared}
    return {"50%": {**entry, "categories": categories}}
