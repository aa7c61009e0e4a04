"""What is found in a data set with one of each fault, and in those without scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.look.conftest import HOSTILE, write
from tglo.data.manifest import ManifestError, read_manifest
from tglo.look import Findings, contents, presence, sizes, survey
from tglo.look.page import write_page
from tglo.threshold import Threshold, estimate
from tglo.train import DataConfig, TrainConfig

CONFIG = TrainConfig()


def look(path: Path, config: TrainConfig = CONFIG, **options: object) -> Findings:
    return survey(read_manifest(path, require_scores=False), config, **options)  # type: ignore[arg-type]


def levels(found: Findings) -> dict[str, str]:
    return {note.name: note.level for note in found.notes}


def test_every_fault_is_found(faulty: Path) -> None:
    found = look(faulty, resolution=64)
    assert (found.rows, found.scored, found.images, found.prompts.count) == (18, 18, 15, 6)
    assert found.presence.missing_shown == ["gone.png"]
    assert list(found.sizes.unreadable_shown) == ["broken.png"]
    repeats = found.repeats
    assert (repeats.conflicts, repeats.again, repeats.images) == (1, 1, 1)
    assert repeats.conflicts_shown[0].image == "1.png"
    assert repeats.conflicts_shown[0].scores == [1.0, 11.0]
    assert repeats.images_shown[0].prompts == ["prompt 0", "Prompt  1"]
    assert (found.contents.identical, found.contents.conflicts) == (1, 1)
    assert found.contents.shown[0].images == ["0.png", "copy.png"]
    assert found.contents.compared == found.contents.of == 14
    assert found.prompts.single == 3 and found.prompts.alike_shown == [["prompt 1", "Prompt  1"]]
    widest = found.prompts.widest[0]
    assert (widest.prompt, widest.images, widest.lowest, widest.highest) == ("prompt 0", 7, 0, 11)
    assert levels(found) | {"threshold": ""} == {
        "images_missing": "warning",
        "images_unreadable": "warning",
        "images_enlarged": "warning",
        "conflicts": "warning",
        "identical_conflicts": "warning",
        "repeated_rows": "note",
        "shared_images": "note",
        "prompts_with_one_image": "note",
        "prompts_alike": "warning",
        "threshold": "",
    }


def test_best_worst_and_nearest_show_an_image_once(faulty: Path) -> None:
    found, rows = look(faulty), read_manifest(faulty).rows
    assert [rows[row].image for row in found.best[:3]] == ["gone.png", "1.png", "11.png"]
    assert rows[found.worst[0]].prompt == "last"
    tau = found.labelled.threshold.value  # type: ignore[union-attr]
    distances = [abs(rows[row].score - tau) for row in found.nearest]  # type: ignore[operator]
    assert distances == sorted(distances) and distances[0] <= 0.5
    images = len({row.image for row in rows})
    for shown, most in (
        (found.best, (images + 1) // 2),
        (found.worst, images // 2),
        (found.nearest, 12),
    ):
        assert len({rows[row].image for row in shown}) == len(shown) == min(most, 12)


@pytest.mark.parametrize(
    ("images", "best", "worst"), [(1, 1, 0), (5, 3, 2), (20, 10, 10), (60, 12, 12)]
)
def test_of_few_images_none_is_among_best_and_worst(
    images: int, best: int, worst: int, tmp_path: Path
) -> None:
    found = look(write(tmp_path, [("a", f"{n}.png", n % 3) for n in range(images)]))
    assert (len(found.best), len(found.worst)) == (best, worst)
    assert not set(found.best) & set(found.worst)


def test_a_resolution_that_nobody_gave_is_told(faulty: Path) -> None:
    said = {note.name: note for note in look(faulty).notes}["images_enlarged"]
    assert said.level == "note" and "resolution 1024, which is assumed. --resolution" in said.text
    said = {note.name: note for note in look(faulty, resolution=64).notes}["images_enlarged"]
    assert said.level == "warning" and "tglo cache --resolution takes a lower one" in said.text


def test_buckets_are_those_of_the_cache_command(faulty: Path) -> None:
    found = look(faulty, resolution=64).sizes
    used = {(b.height, b.width): (b.images, b.enlarged) for b in found.buckets}
    assert (found.read, found.smallest, found.largest) == (14, (48, 48), (96, 48))
    assert used == {(48, 80): (4, 0), (64, 64): (5, 5), (80, 48): (4, 0)}


def test_rows_without_a_score_are_told_and_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path, [("a", "a.png", 1), ("b", "b.png", ""), ("c", "c.png", "nan"), ("d", "d.png", 3)]
    )
    found = look(path)
    assert found.scored == 2 and found.labelled is not None
    assert found.labelled.summary.count == 2
    assert (
        found.notes[0].name == "rows_without_score" and "2 of 4 (lines 3, 4)" in found.notes[0].text
    )


def test_without_any_score_there_is_a_page_without_threshold(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("prompt,image,stars\na,a.png,1\n")
    found = look(path)
    assert found.labelled is None and found.scores is None and found.best == []
    assert "--score-column (there are ['stars'])" in found.notes[0].text
    assert "tglo rate" in found.notes[0].text


def test_what_gives_no_threshold_is_told(tmp_path: Path) -> None:
    found = look(write(tmp_path, [("a", "a.png", 2), ("b", "b.png", 2)]))
    assert found.labelled is None and found.scores is not None
    assert "all 2 scores equal 2" in found.notes[0].text
    ridge = replace(CONFIG, data=DataConfig(baseline="oracle"))
    found = look(write(tmp_path, [("a", "a.png", 2), ("b", "b.png", 3)]), ridge)
    assert "needs the prompts' embeddings" in found.notes[0].text
    assert levels(found)["one_image_each"] == "warning"


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="line 2: the score is infinite"):
        look(write(tmp_path, [("a", "a.png", "inf"), ("b", "b.png", 3)]))
    with pytest.raises(ManifestError, match="has no rows"):
        look(write(tmp_path, []))


def test_a_threshold_of_other_data_is_refused(tmp_path: Path) -> None:
    estimate([1.0, 2.0, 3.0]).save(tmp_path / "t.json")
    config = replace(CONFIG, data=DataConfig(threshold=tmp_path / "t.json"))
    with pytest.raises(ValueError, match="frozen for 3 other scores than these 2"):
        look(write(tmp_path, [("a", "a.png", 1), ("b", "b.png", 3)]), config)


def test_thresholds_by_prompt_have_a_histogram_of_distances(faulty: Path) -> None:
    config = replace(CONFIG, data=DataConfig(baseline="oracle"))
    found = look(faulty, config)
    assert found.differences is not None and found.labelled is not None
    assert sum(found.differences.positives) == found.labelled.positives.count
    assert look(faulty).differences is None


def test_prompts_that_all_have_the_global_threshold_have_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, [(f"prompt {n % 3}", f"{n}.png", n // 3) for n in range(12)])
    found = look(path, replace(CONFIG, data=DataConfig(baseline="oracle")))
    assert found.labelled is not None and found.labelled.threshold.per_prompt
    assert found.differences is None
    write_page(tmp_path / "look.html", read_manifest(path), found)
    text = (tmp_path / "look.html").read_text()
    assert "threshold 1.5" in text and "differs by prompt" not in text


def test_bounds_hold_and_are_told(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "READ", 5)
    monkeypatch.setattr(contents, "FILES", 4)
    monkeypatch.setattr(presence, "ASKED", 0)
    found = look(faulty)
    assert (found.sizes.read, found.sizes.of) == (5, 14)
    assert found.contents.compared <= 4 and found.contents.of == 14
    assert found.presence.missing == 1


def test_findings_are_data(faulty: Path) -> None:
    plain = look(faulty).plain()
    assert plain["threshold"]["positives"] == plain["threshold"]["sides"]["positives"]["count"]
    assert plain["notes"][0].keys() == {"name", "level", "text"}
    assert HOSTILE not in plain["presence"]["missing_shown"] and plain["rows"] == 18


def test_a_given_threshold_is_taken_as_it_is(faulty: Path) -> None:
    scores = read_manifest(faulty).scores()
    threshold: Threshold = estimate(scores, 75)
    found = look(faulty, threshold=threshold)
    assert found.labelled is not None and found.labelled.threshold is threshold
