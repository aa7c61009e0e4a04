from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tglo.look.labels import label
from tglo.look.notes import about_labels
from tglo.threshold.frozen import Threshold, estimate
from tglo.threshold.summary import describe


def several(seed: int = 0, between: float = 1.0) -> tuple[np.ndarray, list[str]]:
    """Four skewed scores of each of 50 prompts."""
    random = np.random.default_rng(seed)
    means = between * random.normal(size=50)
    scores = np.repeat(means, 4) + random.exponential(size=200)
    return scores, [f"prompt {i // 4}" for i in range(200)]


def alone(noise: float = 0.5) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
    """One score of each of 100 prompts, which their embeddings explain but for the noise."""
    random = np.random.default_rng(1)
    embeddings = random.normal(size=(100, 6))
    signal = embeddings @ np.array([1.0, -0.5, 0.5, 0, 0, 0]) if noise < 10 else 0.0
    scores = 3 + signal + noise * random.normal(size=100)
    prompts = [f"prompt {i}" for i in range(100)]
    return scores, prompts, dict(zip(prompts, embeddings, strict=True))


def test_the_mean_is_the_threshold_of_every_prompt() -> None:
    scores, prompts = several()
    found = estimate(scores, baseline="mean")
    assert found.value == pytest.approx(scores.mean(), rel=1e-14)
    assert found.percentile is None and not found.per_prompt
    summary = describe(scores, found, np.inf, prompts)
    assert summary.positive_weight == pytest.approx(summary.negative_weight, rel=1e-12)


def test_oracle_takes_shrunk_means_where_prompts_have_several_scores() -> None:
    scores, prompts = several()
    found = estimate(scores, prompts=prompts, baseline="oracle")
    assert found.fit is not None and found.fit.method == "prompt means"
    assert found.fit.within == pytest.approx(1, rel=0.2)
    assert found.fit.between == pytest.approx(1, rel=0.3)
    means = scores.reshape(50, 4).mean(axis=1)
    expected = scores.mean() + found.fit.factor * (means - scores.mean())
    assert found.for_prompts(prompts[::4]) == pytest.approx(expected, rel=1e-12)
    assert found.for_prompts(["another"]).tolist() == [found.value]
    text = str(describe(scores, found, np.inf, prompts))
    assert "baseline oracle of 200" in text and "means of 50 prompts, B 0.768 on average" in text
    assert "prompts explain" in text and "sides     positives weigh" in text
    assert "note" not in text


def test_oracle_takes_ridge_where_every_prompt_has_one_score() -> None:
    scores, prompts, table = alone()
    asked = []

    def embed(names: list[str]) -> np.ndarray:
        asked.append(list(names))
        return np.array([table[name] for name in names])

    found = estimate(scores, prompts=prompts, baseline="oracle", embed=embed)
    assert asked == [prompts]
    assert found.fit is not None and found.fit.method == "ridge" and found.fit.explained > 0.7
    rest = scores - found.for_prompts(prompts)
    assert np.square(rest).mean() < 0.4 * scores.var()
    assert estimate(scores, prompts=prompts, baseline="ridge", embed=embed).per_prompt == (
        found.per_prompt
    )
    text = str(describe(scores, found, np.inf, prompts))
    assert "ridge regression on the embeddings of 100 prompts" in text and "leave-one-out" in text


def test_ridge_regresses_the_means_of_prompts_with_several_scores() -> None:
    scores, prompts, table = alone()
    twice = np.concatenate([scores + 0.3, scores - 0.3])
    embed = lambda names: [table[name] for name in names]  # noqa: E731
    found = estimate(twice, prompts=prompts * 2, baseline="ridge", embed=embed)
    once = estimate(scores, prompts=prompts, baseline="ridge", embed=embed)
    assert found.for_prompts(prompts) == pytest.approx(once.for_prompts(prompts), rel=1e-9)
    assert found.fit is not None and found.fit.several == 100


def test_several_scores_need_no_embeddings() -> None:
    scores, prompts = several()
    estimate(scores, prompts=prompts, baseline="oracle", embed=lambda names: pytest.fail("asked"))


def test_what_cannot_be_estimated_is_refused_with_what_to_use() -> None:
    scores, prompts, table = alone()
    with pytest.raises(ValueError, match="each of the 100 prompts has one score.*--cache.*mean"):
        estimate(scores, prompts=prompts, baseline="oracle")
    with pytest.raises(ValueError, match="baseline ridge needs the prompts' embeddings"):
        estimate(scores, prompts=prompts, baseline="ridge")
    noise, _, _ = alone(noise=10.0)
    message = "embeddings of 100 prompts do not explain their scores: R.2 is .*Use baseline mean"
    with pytest.raises(ValueError, match=message):
        embed = lambda names: [table[name] for name in names]  # noqa: E731
        estimate(noise, prompts=prompts, baseline="ridge", embed=embed)
    with pytest.raises(ValueError, match="differs by prompt: pass prompts"):
        estimate(scores, baseline="oracle")
    constant = np.repeat([1.0, 2.0], 5)
    with pytest.raises(ValueError, match="2 prompts are all equal .B = 1.*baseline mean"):
        estimate(constant, prompts=["a"] * 5 + ["b"] * 5, baseline="oracle")


@pytest.mark.parametrize("count", [100, 5])
def test_oracle_says_that_the_mean_stands_for_embeddings_that_explain_nothing(
    count: int, tmp_path: Path
) -> None:
    noise, prompts, table = alone(noise=10.0)
    noise, prompts = noise[:count], prompts[:count]
    embed = lambda names: [table[name] for name in names]  # noqa: E731
    found = estimate(noise, prompts=prompts, baseline="oracle", embed=embed)
    assert found.value == pytest.approx(noise.mean()) and not found.per_prompt
    note = "every prompt gets the mean of all scores: "
    assert note in str(describe(noise, found, np.inf, prompts))
    found.save(tmp_path / "threshold.json")
    assert Threshold.load(tmp_path / "threshold.json") == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "median"}, "baseline must be one of .*'oracle'.*got 'median'"),
        ({"baseline": "mean", "percentile": 75}, "percentile is 75, which baseline mean does not use"),
        ({"baseline": "oracle", "kappa": 8.0}, "kappa shrinks the percentile.*baseline is oracle"),
        ({"baseline": "oracle", "prompts": ["a"]}, "one prompt per score"),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other(options: dict[str, object], message: str) -> None:
    scores, prompts = several()
    with pytest.raises(ValueError, match=message):
        estimate(scores, **{"prompts": prompts, **options})  # type: ignore[arg-type]


def test_notes_say_what_was_done_instead() -> None:
    scores, prompts = several(between=0.0)
    random = np.random.default_rng(3)
    same = np.tile(random.normal(size=4), 50)
    found = estimate(same, prompts=prompts, baseline="oracle")
    assert set(found.per_prompt.values()) == {found.value}
    (note,) = describe(same, found, 5, prompts).notes()
    assert "B = 0), so every prompt gets the global mean" in note
    assert f"\nnote      {note}" in str(describe(same, found, 5, prompts))
    labelled = label(same, found, prompts, 5.0, normalised=False)
    ranks = {told.text.lower(): told.level for told in about_labels(labelled)}
    assert ranks[note.lower()] == "note"  # as tglo look has it
    few = [f"prompt {i}" for i in range(199)] + ["prompt 0"]
    text = str(describe(scores, estimate(scores, prompts=few, baseline="oracle"), 5, few))
    assert "\nwarning   prompts with several scores: only 1. B" in text
    scores[7] = 1e9
    text = str(describe(scores, estimate(scores, baseline="mean"), 5, prompts))
    assert "more than 10 robust standard deviations from the median: 1. Means" in text


def test_a_proxy_set_of_other_prompts_is_told() -> None:
    scores, prompts = several()
    proxy = estimate(scores, prompts=prompts, baseline="oracle", source="proxy")
    others = ["another"] * 150 + prompts[:50]
    assert "150 of 200 rows have prompts that the threshold was not estimated from" in str(
        describe(scores, proxy, 5, others)
    )


def test_save_and_load_keep_every_bit(tmp_path) -> None:
    scores, prompts = several()
    one, names, table = alone()
    embed = lambda asked: [table[name] for name in asked]  # noqa: E731
    for found in (
        estimate(scores, baseline="mean"),
        estimate(scores, prompts=prompts, baseline="oracle", score_scale="mad"),
        estimate(one, prompts=names, baseline="ridge", embed=embed, source="proxy"),
    ):
        found.save(tmp_path / "t.json")
        assert Threshold.load(tmp_path / "t.json") == found
        assert json.loads((tmp_path / "t.json").read_text())["version"] == 2


OLD = """{
 "count": 3,
 "format": "tglo.threshold",
 "kappa": 2.0,
 "per_prompt": {
  "a": 1.5
 },
 "percentile": 50.0,
 "scale": 1.0,
 "score_scale": "none",
 "scores_sha256": "",
 "seal": "SEAL",
 "source": "proxy",
 "value": 2.0,
 "version": 1
}
"""


def test_files_of_version_1_are_read_and_percentiles_still_written_so(tmp_path) -> None:
    from tglo.files.sealed import seal

    content = json.loads(OLD)
    del content["seal"]
    text = OLD.replace("SEAL", seal(content))
    (tmp_path / "old.json").write_text(text)
    found = Threshold.load(tmp_path / "old.json")
    assert found.baseline == "percentile" and found.fit is None
    assert found.for_prompts(["a", "b"]).tolist() == [1.5, 2.0]
    found.save(tmp_path / "new.json")
    assert (tmp_path / "new.json").read_text() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(baseline="median"), "unknown baseline 'median'"),
        (lambda c: c.update(percentile=50.0), "a percentile, or a fit, that its baseline has not"),
        (lambda c: c.update(fit=None), "a percentile, or a fit, that its baseline has not"),
        (lambda c: c["fit"].update(within="1"), "within of fit is '1', not a finite number"),
        (lambda c: c["fit"].update(factor=None), "factor of fit is None"),
        (lambda c: c["fit"].update(method="magic"), "unknown method 'magic'"),
        (lambda c: c["fit"].update(more=1), "damaged or no threshold file"),
        (lambda c: c.update(version=1), r"lacks or adds \['baseline', 'fit'\]"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, message) -> None:
    scores, prompts = several()
    path = tmp_path / "t.json"
    estimate(scores, prompts=prompts, baseline="oracle").save(path)
    content = json.loads(path.read_text())
    del content["seal"]
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Threshold.load(path)


def test_the_remedy_for_weights_of_an_infinite_confidence_is_no_scale() -> None:
    scores = np.random.default_rng(0).normal(size=500) * 1e4
    found = estimate(scores, baseline="mean")
    assert "finite confidence or objective.weight_normalisation" in str(
        describe(scores, found, np.inf)
    )
    assert "let a few samples decide" not in str(describe(scores, found, np.inf, normalised=True))


def test_uneven_sides_are_told() -> None:
    scores = np.random.default_rng(0).exponential(size=1000) ** 2
    text = str(describe(scores, estimate(scores), np.inf))
    assert "the positives weigh" in text and "times as much as the others" in text
    assert "times as much" not in str(describe(scores, estimate(scores), np.inf, balance=True))
    assert "times as much" not in str(describe(scores, estimate(scores, baseline="mean"), np.inf))
    ties = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])  # the positives lie at the median
    assert "the negatives weigh all there is beside the others" in str(
        describe(ties, estimate(ties), np.inf)
    )
