from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cache.fake_encoder import make_image, make_manifest
from tglo.data.manifest import read_manifest, write_manifest
from tglo.rewards import SCORERS, load_scorer, partial, score_manifest


def red(images, prompts):
    """Mean red and the prompt's length, as a scorer a user would write."""
    return [np.asarray(i)[..., 0].mean() + len(p) for i, p in zip(images, prompts, strict=True)]


def expected(manifest):
    images = [make_image(i) for i in range(len(manifest))]
    return [red([i], [p])[0] for i, p in zip(images, manifest.prompts(), strict=True)]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_scores_and_nothing_else_change(tmp_path, batch_size):
    manifest = make_manifest(tmp_path, 7)
    scored = score_manifest(manifest, red, batch_size, progress=False)
    assert scored.scores().tolist() == expected(manifest)
    assert scored.sample_ids().tolist() == manifest.sample_ids().tolist()
    write_manifest(tmp_path / "scored.csv", scored)
    assert read_manifest(tmp_path / "scored.csv").scores().tolist() == expected(manifest)


class Counting:
    def __init__(self, fail_at: int | None = None) -> None:
        self.count, self.fail_at = 0, fail_at

    def __call__(self, images, prompts):
        if self.fail_at is not None and self.count + len(images) > self.fail_at:
            raise RuntimeError("out of memory")
        self.count += len(images)
        return red(images, prompts)


def test_it_goes_on_where_it_stopped(tmp_path):
    manifest = make_manifest(tmp_path, 9)
    partial = tmp_path / "partial.json"
    with pytest.raises(RuntimeError, match="out of memory"):
        score_manifest(manifest, Counting(fail_at=6), 2, partial=partial, progress=False)
    assert len(json.loads(partial.read_text())["scores"]) == 6
    make_image(77).save(tmp_path / "images/000.png")  # changed since: its score is stale
    second = Counting()
    scored = score_manifest(manifest, second, 2, partial=partial, progress=False)
    assert second.count == 9 - 6 + 1
    assert scored.scores().tolist()[1:] == expected(manifest)[1:]
    assert scored.scores()[0] == red([make_image(77)], manifest.prompts()[:1])[0]
    with pytest.raises(ValueError, match=r"holds scores of \['.*Counting'\], not of \['.*red'\]"):
        score_manifest(manifest, red, partial=partial, progress=False)


def test_partial_results_are_saved_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "SAVE_SECONDS", 0.0)
    manifest, kept = make_manifest(tmp_path, 4), tmp_path / "partial.json"
    seen = []

    def watching(images, prompts):
        seen.append(len(json.loads(kept.read_text())["scores"]) if kept.exists() else 0)
        return red(images, prompts)

    score_manifest(manifest, watching, 1, partial=kept, progress=False)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_names_its_row(tmp_path, value):
    manifest, partial = make_manifest(tmp_path, 6), tmp_path / "partial.json"

    def scorer(images, prompts):
        return [value if p == "a dog" else 1.0 for p in prompts]

    with pytest.raises(ValueError, match=r"NaN or inf for 1 of 2 images: line 3: images/001\.png"):
        score_manifest(manifest, scorer, 2, partial=partial, progress=False)
    assert len(json.loads(partial.read_text())["scores"]) == 1


def test_unreadable_images_are_listed_after_the_others_are_scored(tmp_path):
    manifest, partial = make_manifest(tmp_path, 6), tmp_path / "partial.json"
    (tmp_path / "images/001.png").write_bytes(b"no image")
    (tmp_path / "images/004.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 6 images .*line 3: .*line 6: .*others are scored"):
        score_manifest(manifest, red, 2, partial=partial, progress=False)
    assert len(json.loads(partial.read_text())["scores"]) == 4


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ([1.0], ValueError, r"returned shape \(1,\) for 2 images"),
        (3.0, ValueError, r"returned shape \(\)"),
        (["a", "b"], TypeError, "must return 2 numbers"),
        (None, ValueError, r"returned shape \(\)"),
    ],
)
def test_a_scorer_that_returns_something_else(tmp_path, result, error, message):
    manifest = make_manifest(tmp_path, 2)
    with pytest.raises(error, match=message):
        score_manifest(manifest, lambda images, prompts: result, progress=False)


def test_the_same_row_twice_is_scored_once(tmp_path):
    manifest = make_manifest(tmp_path, 3)
    twice = manifest.select([0, 1, 2, 0])
    scorer = Counting()
    assert score_manifest(twice, scorer, progress=False).scores()[3] == expected(manifest)[0]
    assert scorer.count == 3


def test_load_scorer():
    assert load_scorer("ink") is SCORERS["ink"]
    assert load_scorer("math:hypot")(3, 4) == 5
    with pytest.raises(ValueError, match=r"no scorer 'inc' \(did you mean 'ink'\?\); known are"):
        load_scorer("inc")
    with pytest.raises(ValueError, match="No module named 'no_such_module'"):
        load_scorer("no_such_module:score")
    with pytest.raises(ValueError, match=r"math has no callable 'hypott' \(did you mean 'hypot'"):
        load_scorer("math:hypott")
    with pytest.raises(ValueError, match="no callable 'pi'"):
        load_scorer("math:pi")


def test_several_scorers_share_a_pass_and_get_a_column_each(tmp_path):
    manifest, kept = make_manifest(tmp_path, 7), tmp_path / "partial.json"
    scorers = {"red": red, "second": Counting()}
    scored = score_manifest(manifest, scorers, 3, partial=kept, progress=False)
    assert scored.scores().tolist() == expected(manifest)  # of the first
    write_manifest(tmp_path / "scored.csv", scored)
    again = read_manifest(tmp_path / "scored.csv")
    for name in scorers:
        assert [float(row.extra[name]) for row in again] == expected(manifest)
    assert score_manifest(manifest, scorers, partial=kept, progress=False).rows == scored.rows
    assert scorers["second"].count == 7
    with pytest.raises(ValueError, match="no scorer was given"):
        score_manifest(manifest, {}, progress=False)


def test_a_row_counts_as_scored_when_all_scorers_have_scored_it(tmp_path):
    manifest, kept = make_manifest(tmp_path, 6), tmp_path / "partial.json"

    def sometimes(images, prompts):
        return [float("nan") if p == "a dog" else 1.0 for p in prompts]

    with pytest.raises(ValueError, match=r"sometimes gave NaN or inf for 2 of 6 images: line 3"):
        score_manifest(manifest, {"red": red, "s": sometimes}, partial=kept, progress=False)
    assert len(json.loads(kept.read_text())["scores"]) == 4
