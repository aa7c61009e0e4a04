"""The study's second world, handwritten digits: its rewards and judge, and jobs of it for real."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.study import front, handwriting, harm, plan, runs, stages
from examples.study.data import Pool
from examples.study.plan import Job
from examples.study.workers import Workers
from examples.study.world import DIGITS, SHAPES
from tglo.data.manifest import read_manifest
from tglo.demo import classifier, digits
from tglo.files import read_json

QUICK = DIGITS.of_size("quick")


def drawn(count: int, pen: float) -> tuple[list[digits.Image.Image], list[str]]:
    """Draw real digits that the reader was not fitted on."""
    data = digits.load(1, 2)
    rows = np.arange(count)
    return digits.to_images(data.draw(rows, np.full(count, pen))), data.prompts(rows)


def test_slant_is_of_the_stroke_alone() -> None:
    down, right = np.mgrid[: digits.SIZE, : digits.SIZE]
    leaning = (np.abs(right + down - digits.SIZE + 1) < 3).astype(np.float32)  # as in "/"
    upright = np.zeros_like(leaning)
    upright[4:28, 14:18] = 1
    images = digits.to_images(
        np.stack([leaning, leaning[:, ::-1], upright, np.zeros_like(upright)])
    )
    found = handwriting.slant(images, [digits.PROMPTS[0]] * 4)
    assert found[0] == pytest.approx(-found[1]) and 0.9 < found[0] <= 1.0
    assert found[2:] == pytest.approx(0.0, abs=1e-6)
    real, prompts = drawn(200, 2.5)
    others = [digits.PROMPTS[(digits.PROMPTS.index(p) + 1) % 10] for p in prompts]
    assert (handwriting.slant(real, prompts) == handwriting.slant(real, others)).all()


def test_stars_are_for_legible_digits_of_a_thin_pen() -> None:
    thin, prompts = drawn(60, 1.8)
    bold, _ = drawn(60, 4.5)
    others = [digits.PROMPTS[(digits.PROMPTS.index(p) + 1) % 10] for p in prompts]
    meant = [
        handwriting.rate(images, texts, 0.0).mean()
        for images, texts in ((thin, prompts), (bold, prompts), (thin, others))
    ]
    assert meant[0] > meant[1] + 1 and meant[0] > meant[2] + 1
    given = handwriting.stars(thin, prompts)
    assert (
        set(given) <= {1.0, 2.0, 3.0, 4.0, 5.0}
        and (given != handwriting.rate(thin, prompts, 0.0)).any()
    )
    assert (given == handwriting.stars(thin, prompts)).all()


def test_judge_is_no_network_of_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    images, prompts = drawn(200, 2.5)
    monkeypatch.setattr(classifier, "read", None)  # the reader of "bold" and "stars"
    assert DIGITS.judge(images, prompts).mean() > 0.97
    monkeypatch.undo()
    monkeypatch.setattr(classifier, "judge", None)
    assert all(np.isfinite(score(images, prompts)).all() for score in DIGITS.rewards.values())


def test_worlds_are_sent_to_other_processes() -> None:
    for world in (SHAPES, DIGITS):
        assert pickle.loads(pickle.dumps(world)).rewards == world.rewards


def test_front_of_digits_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ("TGO oracle", "LAIR")
    methods = {
        name: replace(DIGITS.methods[name], grid=DIGITS.methods[name].grid[:1]) for name in names
    }
    world = replace(QUICK, methods=methods)
    page = tmp_path / "page.md"
    parts = ("digits-front", "digits-settings")
    page.write_text("".join(f"<!-- measured: {n} -->\n<!-- end: {n} -->\n" for n in parts))
    with Workers(tmp_path, world, 1) as workers:
        stages.fronts(workers, 2, names, ("slant",), page, run=True)
    printed, errors = capfd.readouterr()
    assert "grids: 4 of 4" in printed and "it/s" not in errors and "Loading" not in errors
    assert "| TGO oracle | 1 of 1 | 2 |" in page.read_text()
    assert (tmp_path / "study-front-digits.png").read_bytes().startswith(b"\x89PNG")
    found = front.measured(tmp_path, range(2), world, ("slant",))
    assert [one.method for one in found] == ["TGO oracle", "LAIR"]
    job = plan.grid_jobs(world, names, [0], ("slant",))[0]
    result = read_json(tmp_path / "runs" / job.name / runs.RESULT)
    assert result["means"].keys() == {"digits"} and result["harm"]["error"] > 0
    assert result["means"]["digits"].keys() == {*DIGITS.rewards, "accuracy"}
    _check_pool(Pool(tmp_path, 0, world), job)


def _check_pool(pool: Pool, job: Job) -> None:
    """Every prompt is trained on, and each has images that no run trains on."""
    trained = read_manifest(pool.manifest(job))
    assert len(trained) == QUICK.size.used and set(trained.prompts()) == set(digits.PROMPTS)
    kept = harm.held_out(pool)
    assert len(kept) == 10 and not {row.sample_id for row in trained} & set(kept)
