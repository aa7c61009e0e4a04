"""Bins of curves: spikes stay, what was sent stays, and what is sent is bounded."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.watch.made import append, line
from tglo.watch.curves import CURVES, MOST_BINS, Have, update
from tglo.watch.metrics_file import MetricsFile


def floats(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4")


def metrics(folder: Path, steps: range, **values: Any) -> MetricsFile:
    append(folder, [line(step, **values) for step in steps])
    file = MetricsFile(folder / "metrics.jsonl")
    file.poll()
    return file


class Page:
    """What a browser keeps (watch.js: take)."""

    def __init__(self) -> None:
        self.have = Have()
        self.steps: NDArray[np.float32] = np.empty(0, np.float32)
        self.loss: NDArray[np.float32] = np.empty((1, 0), np.float32)

    def take(self, news: dict[str, Any]) -> dict[str, Any]:
        first, steps = news["first"], floats(news["steps"])
        loss = floats(news["curves"]["loss"]).reshape(-1, len(steps))
        self.steps = np.concatenate([self.steps[:first], steps])
        kept = self.loss[:, :first] if first else loss[:, :0]
        self.loss = np.concatenate([kept, loss], axis=1)
        self.have = Have(news["generation"], news["width"], news["complete"])
        return news


def test_short_runs_are_sent_as_they_are(tmp_path: Path) -> None:
    file = metrics(tmp_path, range(10, 110, 10))
    news = update(file, Have())
    assert news["width"] == 1 and floats(news["steps"]).tolist() == list(range(10, 110, 10))
    assert set(news["curves"]) == set(CURVES)
    assert floats(news["curves"]["learning_rate"]) == pytest.approx([1e-4] * 10)


def test_a_spike_stays_and_the_size_is_bounded(tmp_path: Path) -> None:
    append(
        tmp_path,
        [line(s, loss=90.0 if s == 77 else -5.0 if s == 2500 else 2.0) for s in range(1, 3001)],
    )
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.poll()
    news = update(file, Have())
    mean, least, greatest = floats(news["curves"]["loss"]).reshape(3, -1)
    assert MOST_BINS // 2 <= len(mean) <= MOST_BINS and news["width"] == 8
    assert greatest.max() == 90 and least.min() == -5
    spike = int(np.argmax(greatest))
    assert floats(news["steps"])[spike] == 80 and mean[spike] == pytest.approx(2 + 88 / 8)
    assert len(json.dumps(news)) < 110_000


def test_what_is_sent_later_fits_to_what_was_sent(tmp_path: Path) -> None:
    page, file, random = Page(), MetricsFile(tmp_path / "metrics.jsonl"), np.random.default_rng(0)
    step, sizes = 0, []
    for count in (3, 1, 1, 400, 2, 90, 1, 700, 5, 1):
        steps = range(step + 1, step + count + 1)
        append(tmp_path, [line(s, loss=float(random.normal())) for s in steps])
        step += count
        file.poll()
        news = page.take(update(file, page.have))
        sizes.append(len(floats(news["steps"])))
        whole = Page()
        whole.take(update(file, Have()))
        assert np.array_equal(page.steps, whole.steps) and np.array_equal(page.loss, whole.loss)
    assert sizes[1] == sizes[2] == 1 and sizes[-1] <= 2  # new lines alone
    (tmp_path / "metrics.jsonl").unlink()
    append(tmp_path, [line(9)])
    file.poll()
    page.take(update(file, page.have))
    assert page.steps.tolist() == [9]  # another file: from the start


def test_what_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    bad = float("nan"), float("inf")
    append(tmp_path, [line(1), line(2, loss=bad[0]), line(3, loss=bad[1])])
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.poll()
    assert np.isnan(floats(update(file, Have())["curves"]["loss"])).tolist() == [False, True, True]
    append(tmp_path, [line(s, loss=bad[s % 2] if s < 1600 else 3.0) for s in range(4, 2001)])
    file.poll()
    news = floats(update(file, Have())["curves"]["loss"]).reshape(3, -1)
    assert np.isnan(news[:, 50]).all() and (news[:, -1] == 3).all()


def test_without_a_reference_nothing_is_compared_with_one(tmp_path: Path) -> None:
    zeros = dict.fromkeys(
        ("r_positive", "r_negative", "implicit_accuracy", "saturated", "reference_error"), 0.0
    )
    file = metrics(tmp_path, range(1, 4), **zeros)
    shown = update(file, Have())["curves"]
    assert not zeros.keys() & shown.keys() and {"loss", "policy_error"} <= shown.keys()


def test_no_lines(tmp_path: Path) -> None:
    news = update(MetricsFile(tmp_path / "metrics.jsonl"), Have())
    assert news["lines"] == 0 and news["steps"] == "" and news["curves"] == {}
