from __future__ import annotations

import numpy as np
import pytest

from tglo.rewards import mix, parse_mixture

REWARDS = {"a": np.array([1.0, 2.0, 6.0]), "b": np.array([100.0, 300.0, 200.0])}


def test_a_weighted_sum():
    weights = parse_mixture("a=1, b=-0.5", REWARDS)
    assert weights == {"a": 1.0, "b": -0.5}
    assert mix(REWARDS, weights).tolist() == [1 - 50, 2 - 150, 6 - 100]
    assert mix(REWARDS, {"b": 2.0}).tolist() == [200, 600, 400]
    assert parse_mixture("my_module:f=0.1", ["my_module:f"]) == {"my_module:f": 0.1}


def test_deviations_do_not_depend_on_units():
    weights = {"a": 1.0, "b": 1.0}
    found = mix(REWARDS, weights, "std")
    assert found == pytest.approx(mix({**REWARDS, "b": 7 + 1e6 * REWARDS["b"]}, weights, "std"))
    assert mix(REWARDS, {"b": 2.0}, "std") == pytest.approx(np.sqrt([6, 6, 0]) * [-1, 1, 0])
    with pytest.raises(ValueError, match="all 3 scores of c are 4.0: it has no deviation"):
        mix({"c": np.full(3, 4.0)}, {"c": 1.0}, "std")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "'a' is not NAME=WEIGHT"),
        ("a=1,", "'' is not NAME=WEIGHT"),
        ("a=x", "'a=x' is not NAME=WEIGHT"),
        ("a=nan", "'a=nan' is not NAME=WEIGHT with a finite weight"),
        ("a=1,a=2", "names 'a' twice"),
        ("hpsv=1", r"'hpsv' is not scored \(did you mean 'hpsv2'\?\); scored are \['a', 'hpsv2'\]"),
        ("a=0,hpsv2=0", "no weight but 0"),
    ],
)
def test_a_mixture_of_no_use(text, message):
    with pytest.raises(ValueError, match=message):
        parse_mixture(text, ["a", "hpsv2"])


def test_a_sum_that_overflows():
    with pytest.raises(ValueError, match="overflows"), np.errstate(over="ignore"):
        mix({"a": np.array([1e300])}, {"a": 1e300})
