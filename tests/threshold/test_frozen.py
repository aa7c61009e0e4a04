from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tglo.threshold.frozen import Threshold, estimate
from tglo.threshold.summary import describe

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("count", [2, 3, 10, 101, 1000])
@pytest.mark.parametrize("percentile", [0, 12.5, 50, 55, 70, 99, 100])
def test_the_percentile_is_numpys(count, percentile):
    scores = RANDOM.normal(size=count)
    assert estimate(scores, percentile).value == pytest.approx(
        np.percentile(scores, percentile), rel=1e-13
    )


def test_a_rank_that_should_be_whole_is_a_sample_so_its_tie_is_positive():
    scores = np.arange(101.0)
    for percentile in range(101):
        assert estimate(scores, percentile).value == scores[percentile]


@pytest.mark.parametrize("percentile", [30, 50, 55, 90])
@pytest.mark.parametrize(
    "change", [lambda s: s * 1e8, lambda s: s + 1e6, lambda s: s * 1e-8, lambda s: s - 1e6]
)
def test_labels_survive_a_scale_and_an_offset(percentile, change):
    scores = (
        RANDOM.integers(0, 200, size=101) / 8
    )  # ties, and exactly representable after the change
    prompts = [f"prompt {i % 7}" for i in range(101)]
    for kwargs in ({}, {"prompts": prompts, "kappa": 0.0}, {"prompts": prompts, "kappa": 4.0}):
        before = estimate(scores, percentile, score_scale="std", **kwargs)
        after = estimate(change(scores), percentile, score_scale="std", **kwargs)
        label_before = scores >= before.for_prompts(prompts)
        label_after = change(scores) >= after.for_prompts(prompts)
        assert np.array_equal(label_before, label_after)
        weight_before = describe(scores, before, prompts=prompts)
        weight_after = describe(change(scores), after, prompts=prompts)
        assert weight_after.weight_max == pytest.approx(weight_before.weight_max, rel=1e-6)


def test_shrinkage_towards_the_global_value():
    scores = [1.0, 2.0, 3.0, 10.0, 20.0]
    prompts = ["a", "a", "a", "b", "b"]
    threshold = estimate(scores, prompts=prompts, kappa=2.0)
    assert threshold.value == 3.0
    assert threshold.for_prompts(["a", "b", "unseen"]).tolist() == pytest.approx(
        [(3 * 2 + 2 * 3) / 5, (2 * 15 + 2 * 3) / 4, 3.0]
    )
    assert threshold.for_prompts(["a"]).dtype == np.float64
    alone = estimate(scores, prompts=prompts, kappa=0)
    assert alone.per_prompt == {"a": 2.0, "b": 15.0}


def test_scales_estimate_the_standard_deviation_of_a_normal():
    scores = RANDOM.normal(size=20_000) * 3 + 50
    for name in ("std", "mad", "iqr"):
        threshold = estimate(scores, score_scale=name)
        assert threshold.scale == pytest.approx(3, rel=0.03)
        assert threshold.confidence(5.0) == 5.0 / threshold.scale
    assert estimate(scores).confidence(5.0) == 5.0


def test_the_weight_of_the_paper():
    scores = np.array([0.0, 1.0, 3.0])
    summary = describe(scores, estimate(scores), confidence=5.0)
    assert (summary.positives, summary.negatives, summary.ties) == (2, 1, 1)
    assert (summary.weight_min, summary.weight_median, summary.weight_max) == (1, 6, 11)


def test_save_and_load_keep_every_bit(tmp_path):
    scores = RANDOM.normal(size=50)
    prompts = [f"prompt \N{SNOWMAN} {i % 5}" for i in range(50)]
    threshold = estimate(scores, 37, prompts=prompts, kappa=3, score_scale="mad", source="proxy")
    threshold.save(tmp_path / "threshold.json")
    assert Threshold.load(tmp_path / "threshold.json") == threshold
    assert [p.name for p in tmp_path.iterdir()] == ["threshold.json"]


def test_check_knows_its_scores_in_any_order():
    scores = RANDOM.normal(size=50)
    threshold = estimate(scores)
    threshold.check(scores[::-1])
    with pytest.raises(ValueError, match=r"frozen for 50 other scores than these 49"):
        threshold.check(scores[1:])
    estimate(scores, source="proxy").check(scores[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="else"), "not a threshold file"),
        (lambda c: c.update(version=99), "format version 99"),
        (lambda c: c.pop("scale"), r"lacks or adds \['scale'\]"),
        (lambda c: c.update(scale=0.0), "scale that is not positive"),
        (lambda c: c.update(value="3"), "value is '3', not a finite number"),
        (lambda c: c.update(source="web"), "unknown score_scale"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, change, message):
    path = tmp_path / "threshold.json"
    estimate([1.0, 2.0]).save(path)
    content = json.loads(path.read_text())
    del content["seal"]
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Threshold.load(path)


def test_a_changed_byte_is_refused_wherever_it_is(tmp_path):
    path = tmp_path / "threshold.json"
    scores = [1.25, 2.5, 4.75, 7.0]
    whole = estimate(scores, prompts=["a", "a", "b", "b"], kappa=1.0, score_scale="std")
    whole.save(path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = Threshold.load(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # white space, or a number's last digit where a float has fewer
            assert found == whole


def test_a_changed_value_is_refused_with_what_to_do(tmp_path, caplog):
    path = tmp_path / "threshold.json"
    estimate([1.0, 2.0]).save(path)
    path.write_text(path.read_text().replace('"value": 1.5', '"value": 1.75'))
    message = (
        r"threshold\.json is damaged .*checksum\): write it again with `tglo threshold`, or "
        r'remove its line "seal" if you changed it on purpose'
    )
    with pytest.raises(ValueError, match=message):
        Threshold.load(path)
    lines = [line for line in path.read_text().splitlines(True) if '"seal"' not in line]
    path.write_text("".join(lines))
    assert Threshold.load(path).value == 1.75
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "threshold.json has no checksum: it is trusted as it is" in caplog.text


def test_a_torn_file_is_refused(tmp_path):
    path = tmp_path / "threshold.json"
    estimate([1.0, 2.0]).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"threshold\.json is damaged or no threshold file"):
        Threshold.load(path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"percentile": 101}, "in \\[0, 100\\], got 101"),
        ({"score_scale": "variance"}, "got 'variance'"),
        ({"source": "web"}, "got 'web'"),
        ({"prompts": ["a", "b", "c"]}, "needs both prompts and kappa"),
        ({"kappa": 1.0}, "needs both prompts and kappa"),
        ({"prompts": ["a", "b", "c"], "kappa": -1.0}, "zero or more, got -1"),
        ({"prompts": ["a"], "kappa": 1.0}, "one prompt per score \\(3\\), got 1"),
    ],
)
def test_settings_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        estimate([1.0, 2.0, 3.0], **kwargs)


def test_a_scale_of_zero_is_refused():
    scores = [5.0] * 9 + [1.0, 2.0]
    for name in ("mad", "iqr"):
        with pytest.raises(ValueError, match=f"score_scale '{name}' is 0.0"):
            estimate(scores, score_scale=name)
    assert estimate(scores, score_scale="std").scale > 0


def test_summary_warns_of_a_weight_that_does_nothing():
    distances = RANDOM.normal(0, 0.03, size=250)  # both sides alike
    scores = 0.26 + np.concatenate([distances, -distances])
    assert 'score_scale "std"' in str(describe(scores, estimate(scores)))
    assert not describe(scores, estimate(scores, score_scale="std")).warnings()


def test_summary_warns_of_weights_that_run_away():
    scores = RANDOM.normal(size=500) * 1e4
    assert 'score_scale "mad"' in str(describe(scores, estimate(scores)))


def test_summary_warns_when_labels_have_one_side():
    scores = [1.0] * 8 + [2.0]
    assert "every label is positive" in str(describe(scores, estimate(scores)))


def test_summary_warns_when_the_threshold_separates_prompts():
    scores = np.concatenate([RANDOM.uniform(0, 1, 20), RANDOM.uniform(5, 6, 20)])
    prompts = ["hard"] * 20 + ["easy"] * 20
    summary = describe(scores, estimate(scores), prompts=prompts)
    assert summary.degenerate_share == 1.0
    assert "per-prompt threshold" in str(summary)
    assert "With more images of each prompt" in str(replace(summary, baseline="oracle"))
    own = estimate(scores, prompts=prompts, kappa=0)
    assert describe(scores, own, prompts=prompts).degenerate_share == 0.0
    with pytest.raises(ValueError, match="pass prompts"):
        describe(scores, own)


def test_the_remedy_for_labels_of_one_side_works():
    scores = [1.0] * 8 + [2.0, 3.0]
    summary = describe(scores, estimate(scores))
    assert "stop      every label is positive" in str(summary)
    assert "choose a percentile of 78 or more" in str(summary)
    assert describe(scores, estimate(scores, 77)).negatives == 0
    assert describe(scores, estimate(scores, 78)).negatives == 8
    scores = [1.0, 2.0, 3.0]
    assert "choose a percentile of 1 or more" in str(describe(scores, estimate(scores, 0)))
    assert describe(scores, estimate(scores, 1)).negatives == 1


def test_labels_of_a_proxys_threshold_may_have_one_side():
    proxy = estimate([1.0, 2.0, 3.0], source="proxy")
    assert "every label is negative: no objective" in str(describe([0.0, 1.0], proxy))
    assert "choose a higher percentile" in str(describe([5.0, 6.0], proxy))


@pytest.mark.parametrize("spread", [0.0, 1e-4])
def test_the_summary_never_claims_a_weight_below_one(spread):
    scores = np.array([0.5] * 19 + [0.9]) + spread * np.arange(20)
    text = str(describe(scores, estimate(scores, 60)))
    assert "below" not in text
    most = "nine of ten weights are 1," if not spread else "nine of ten weights are at most 1 + 0.0"
    assert most in text
