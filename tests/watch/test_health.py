"""Each rule speaks where it should, is silent beside that, and remedies do not contradict each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.watch.made import append, config, line
from tglo.watch.health import Finding, findings
from tglo.watch.metrics_file import MetricsFile


def said(
    folder: Path, last: dict[str, Any], at: int = 500, lines: int = 40, **tables: Any
) -> list[Finding]:
    """What is said of a run whose newest half has these values."""
    steps = [at - 10 * n for n in reversed(range(lines))]
    values = [last if n >= lines // 2 else {} for n in range(lines)]
    append(folder, [line(step, **value) for step, value in zip(steps, values, strict=True)])
    file = MetricsFile(folder / "metrics.jsonl")
    file.poll()
    return findings(file, config(**tables))


def test_a_healthy_run(tmp_path: Path) -> None:
    (found,) = said(tmp_path, {})
    assert found.level == "good"
    assert found.sentence == (
        "Positives and negatives drift apart: r of positives is +0.50, of negatives \u22120.60; accuracy 70%."
    )


RULES: list[tuple[dict[str, Any], str, str]] = [
    ({"r_negative": -5.0}, "bad", r"r of negatives runs away \(.5.00, positives \+0.50\): lower T or the le"),
    ({"policy_error": 0.4}, "bad", "error is 2.7 times the reference's: the model forgets"),
    ({"r_positive": -1.5, "r_negative": -2.0}, "look", "r of positives falls as well .* on good samples"),
    ({"saturated": 0.3}, "look", r"30% of the samples have \|r\| > 4 .*: raise T .* is 0.03\)"),
    ({"saturated": 0.6}, "bad", "60% of the samples"),
    ({"r_positive": 0.001, "r_negative": -0.01}, "look", "near 0 .*: the model learns next to nothing. Raise"),
    ({"implicit_accuracy": 0.4}, "look", "ranking is not learned: accuracy is 40%, below one half"),
    ({"r_positive": 0.3, "r_negative": 0.3}, "look", "ranking is not learned: r of positives is .0.30, of"),
    ({"noise_floor": 0.3}, "look", "With the cached reference r began at 0.3"),
    ({"seconds/data": 0.5}, "look", "50% of a step waits for data"),
    ({"positive_share": 0.98}, "look", "98% of the samples are at or above the threshold"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "level", "sentence"), RULES)
def test_a_rule(values: dict[str, Any], level: str, sentence: str, tmp_path: Path) -> None:
    (found,) = said(tmp_path, values)
    assert found.level == level and re.search(sentence, found.sentence), found


@pytest.mark.parametrize(
    "values",
    [
        {"r_negative": -3.9},
        {"r_positive": -0.9, "r_negative": -2.0},
        {"policy_error": 0.29},
        {"saturated": 0.09},
        {"implicit_accuracy": 0.5},
        {"noise_floor": 0.09},
        {"seconds/data": 0.2},
        {"positive_share": 0.9},
    ],
)
def test_a_rule_is_silent_below_its_limit(values: dict[str, Any], tmp_path: Path) -> None:
    (found,) = said(tmp_path, values)
    assert found.level == "good", found


def test_remedies_do_not_contradict_each_other(tmp_path: Path) -> None:
    """|r| > 4 alone asks for a higher T; where r runs away that is not said as well."""
    (found,) = said(tmp_path, {"r_negative": -6.0, "saturated": 0.5, "implicit_accuracy": 0.9})
    assert "lower T" in found.sentence and "raise T" not in found.sentence


def test_several_causes_come_the_worst_first(tmp_path: Path) -> None:
    found = said(tmp_path, {"seconds/data": 0.5, "r_negative": -6.0, "noise_floor": 0.5})
    assert [each.level for each in found] == ["bad", "look", "look"]


def test_spikes_where_nothing_clips(tmp_path: Path) -> None:
    append(tmp_path, [line(s, gradient_norm=50.0 if s == 490 else 1.0) for s in range(10, 510, 10)])
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.poll()
    (found,) = findings(file, config(optimizer={"max_gradient_norm": 0.0}))
    assert "jumps to 50 times its median" in found.sentence
    assert findings(file, config())[0].level == "good"  # clipped


def test_early_in_a_run_small_r_is_no_fault(tmp_path: Path) -> None:
    small = {"r_positive": 0.001, "r_negative": -0.001, "implicit_accuracy": 0.3}
    (found,) = said(tmp_path, small, at=190, lines=19)
    assert found.level == "early" and found.sentence.startswith("Too early to say")


def test_chance_is_no_fault(tmp_path: Path) -> None:
    few = {"log_every": 10, "lines": 3}
    (found,) = said(tmp_path, {"implicit_accuracy": 0.47}, at=500, lines=int(few["lines"]))
    assert "ranking is not learned" not in found.sentence  # of 120 samples


def test_a_loss_that_is_not_finite_comes_alone(tmp_path: Path) -> None:
    (found,) = said(tmp_path, {"loss": float("nan"), "saturated": 0.9})
    assert found == Finding("bad", "The loss is not finite at step 500: lower the learning rate.")


def test_fine_tuning_has_no_r(tmp_path: Path) -> None:
    zeros = dict.fromkeys(("r_positive", "r_negative", "implicit_accuracy", "reference_error"), 0.0)
    append(tmp_path, [line(s, **zeros) for s in range(10, 510, 10)])
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.poll()
    (found,) = findings(file, config())
    assert found.level == "good" and "no reference" in found.sentence


def test_without_lines_or_configuration(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    assert findings(file, {}) == [Finding("early", "No metrics yet.")]
    append(tmp_path, [line(10), line(20)])
    file.poll()
    assert findings(file, {"optimizer": []})[0].sentence == "Too early to say: 3 lines are needed."
    append(tmp_path, [{"step": s} for s in range(30, 100, 10)])
    file.poll()
    assert findings(file, {})[0].level == "bad"  # no loss at all
