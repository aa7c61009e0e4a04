"""What the metrics of a run say, in sentences: a few rules over its newest lines.

The thresholds are those of docs/training.md's table, of the loss (|r| > 4 is saturated) and of
`temperature = "auto"` (r of about 1). Of rules that speak of one cause only the first that holds says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tglo.train.reports.metrics import NOISY, SATURATED
from tglo.train.temperature import SATURATED_SHARE, TARGET_SPREAD
from tglo.watch.metrics_file import MetricsFile
from tglo.watch.recent import FEWEST_LINES, NEEDED, Recent

Level = Literal["good", "early", "look", "bad"]

TEACHES_LITTLE = 0.1  # share of saturated samples
FORGETTING = 2.0  # policy's error in units of the reference's: "far above"
FLAT = 0.02  # of r, where "auto" aims at 1
SPIKE = 10.0  # a gradient's norm in units of the median
DATA_SHARE = 0.3  # of a step's time
ONE_SIDED = 0.05  # share of the smaller side
DEVIATIONS = 2.0  # of the accuracy below one half


@dataclass(frozen=True)
class Finding:
    """A sentence on a run. level: good, early (nothing to say yet), look (watch it) or bad (act)."""

    level: Level
    sentence: str


def findings(metrics: MetricsFile, config: dict[str, Any]) -> list[Finding]:
    """Return what there is to say of a run, the worst first; one line at least."""
    if not len(metrics):
        return [Finding("early", "No metrics yet.")]
    recent = Recent(metrics, config)
    if not np.isfinite(recent.newest("loss")):
        step = f"{recent.step:,.0f}"
        return [Finding("bad", f"The loss is not finite at step {step}: lower the learning rate.")]
    if len(metrics) < FEWEST_LINES:
        return [Finding("early", f"Too early to say: {FEWEST_LINES} lines are needed.")]
    found = [first for rules in CAUSES if (first := _first(rules, recent)) is not None]
    order = ("bad", "look", "early", "good")
    return sorted(found, key=lambda finding: order.index(finding.level)) or [_well(recent)]


def _first(rules: tuple[Rule, ...], recent: Recent) -> Finding | None:
    return next((found for rule in rules if (found := rule(recent)) is not None), None)


def _forgetting(recent: Recent) -> Finding | None:
    policy, reference = recent.mean("policy_error"), recent.mean("reference_error")
    if not recent.has_r or policy <= FORGETTING * reference:
        return None
    return Finding(
        "bad",
        f"The policy's error is {policy / reference:.1f} times the reference's: the model forgets what it "
        "knew. Lower the learning rate or T.",
    )


def _negatives_run_away(recent: Recent) -> Finding | None:
    positive, negative = recent.mean("r_positive"), recent.mean("r_negative")
    if negative > -SATURATED or negative > -2 * abs(positive):
        return None
    return Finding(
        "bad",
        f"r of negatives runs away ({_signed(negative)}, positives {_signed(positive)}): lower T or the "
        "learning rate.",
    )


def _both_fall(recent: Recent) -> Finding | None:
    positive, negative = recent.mean("r_positive"), recent.mean("r_negative")
    if positive >= -TARGET_SPREAD or negative >= 0:
        return None
    return Finding(
        "look",
        f"r of positives falls as well ({_signed(positive)}, negatives {_signed(negative)}): the model gets "
        "worse on good samples too. Lower the learning rate or T.",
    )


def _saturated(recent: Recent) -> Finding | None:
    share = recent.mean("saturated")
    if share <= TEACHES_LITTLE:
        return None
    temperature = recent.mean("temperature")
    return Finding(
        "bad" if share > SATURATED_SHARE else "look",
        f"{share:.0%} of the samples have |r| > 4 and teach little: raise T (objective.temperature is "
        f'{temperature:.3g}), or set it to "auto".',
    )


def _flat(recent: Recent) -> Finding | None:
    sides = [recent.lines(name) for name in ("r_positive", "r_negative")]
    largest = max((float(np.abs(side).mean()) for side in sides if side.size), default=0.0)
    if recent.early or not recent.has_r or largest >= FLAT:
        return None
    return Finding(
        "look",
        f"r of both sides is near 0 (at most {largest:.2g}): the model learns next to nothing. Raise the "
        "learning rate or lower T.",
    )


def _not_ranked(recent: Recent) -> Finding | None:
    accuracy = recent.mean("implicit_accuracy")
    below = accuracy < 0.5 - DEVIATIONS * 0.5 / np.sqrt(recent.samples)
    if recent.early or not recent.has_r or not (below or recent.apart < FLAT):
        return None
    what = f"accuracy is {accuracy:.0%}, below one half" if below else _r(recent)
    return Finding(
        "look",
        f"The ranking is not learned: {what}. More steps or another learning rate may help; tglo threshold "
        "shows whether the labels fit the scores.",
    )


def _noisy(recent: Recent) -> Finding | None:
    floor = recent.mean("noise_floor")
    if floor <= NOISY:
        return None
    return Finding(
        "look",
        f"With the cached reference r began at {floor:.2g}, where it should be 0: make that cache with the "
        "training's precision, --weights and attention, or raise T.",
    )


def _spikes(recent: Recent) -> Finding | None:
    norms = recent.lines("gradient_norm")
    clipped = recent.setting("optimizer", "max_gradient_norm", 1.0) > 0
    if clipped or norms.size < 2 * FEWEST_LINES or norms.max() <= SPIKE * np.median(norms):
        return None
    times = norms.max() / np.median(norms)
    return Finding(
        "look",
        f"The gradient's norm jumps to {times:.0f} times its median, and nothing clips it: set "
        "optimizer.max_gradient_norm.",
    )


def _slow_data(recent: Recent) -> Finding | None:
    parts = {name: recent.mean(name) for name in NEEDED if name.startswith("seconds_")}
    total = sum(parts.values())
    if not total or parts["seconds_data"] <= DATA_SHARE * total:
        return None
    return Finding(
        "look",
        f"{parts['seconds_data'] / total:.0%} of a step waits for data: the disk with the cache is slow.",
    )


def _one_sided(recent: Recent) -> Finding | None:
    share = recent.mean("positive_share")
    if not recent.has_r or ONE_SIDED <= share <= 1 - ONE_SIDED:
        return None
    return Finding(
        "look",
        f"{share:.0%} of the samples are at or above the threshold: one side is hardly there. Choose "
        "another data.percentile (tglo threshold shows the labels).",
    )


def _well(recent: Recent) -> Finding:
    if not recent.has_r:
        return Finding("good", "Nothing unusual. (This objective has no reference, so r stays 0.)")
    accuracy, r = recent.mean("implicit_accuracy"), _r(recent)
    if recent.apart < FLAT:
        return Finding("early", f"Too early to say: {r}.")
    level: Level = "good" if accuracy >= 0.5 else "early"
    return Finding(level, f"Positives and negatives drift apart: {r}; accuracy {accuracy:.0%}.")


def _r(recent: Recent) -> str:
    positive, negative = recent.mean("r_positive"), recent.mean("r_negative")
    return f"r of positives is {_signed(positive)}, of negatives {_signed(negative)}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


Rule = Callable[[Recent], Finding | None]
CAUSES: tuple[tuple[Rule, ...], ...] = (
    (_forgetting, _negatives_run_away, _both_fall, _saturated, _flat, _not_ranked),
    (_noisy,),
    (_spikes,),
    (_slow_data,),
    (_one_sided,),
)
"""Rules by cause: what is said of how far policy and reference are apart is one sentence, since two remedies
would contradict each other."""
