"""`tglo score` with unreadable images, read-only folders, odd columns, and interruptions."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from datetime import datetime

import pytest

from tests.cache.fake_encoder import make_manifest
from tests.data.test_manifest import make_tars, png
from tglo.cli import main
from tglo.data.errors import ManifestError
from tglo.data.images import decode_image
from tglo.data.manifest import Row, read_manifest, write_manifest
from tglo.files.sealed import seal
from tglo.rewards import score_manifest
from tglo.rewards.scoring import score_file
from tglo.settings import ManifestOptions


class Counting:
    """Scores 1 and counts; at the image `stop_at` it stops in its own way."""

    identity = "counting"

    def __init__(self, stop=None, stop_at: int | None = None) -> None:
        self.count, self.stop, self.stop_at = 0, stop, stop_at

    def __call__(self, images, prompts):
        if self.stop_at is not None and self.count >= self.stop_at:
            self.stop()
        self.count += len(images)
        return [1.0] * len(images)


# 5 ------------------------------------------------------------------------------------------------


def test_05_rows_of_unreadable_images_are_left_out_and_listed(tmp_path, caplog):
    manifest = make_manifest(tmp_path, 20)
    (tmp_path / manifest.rows[3].image).write_bytes(b"no image")
    (tmp_path / manifest.rows[7].image).unlink()
    settings = {"progress": False, "partial": tmp_path / "partial.json"}
    with pytest.raises(ManifestError, match=r"2 of 20 .*more than max_bad_fraction = 0\.05 allows"):
        score_manifest(manifest, Counting(), max_bad_fraction=0.05, **settings)
    scorer = Counting()
    with caplog.at_level(logging.WARNING, "tglo"):
        scored = score_manifest(manifest, scorer, max_bad_fraction=0.1, **settings)
    assert scorer.count == 0  # the first call kept the 18
    assert [row.line for row in scored] == [n for n in range(2, 22) if n not in (5, 9)]
    assert "line 5: images/003.png: cannot be decoded" in caplog.text
    assert "line 9: images/007.png: cannot be read: No such file" in caplog.text


def test_05_an_image_that_was_scored_and_is_gone_is_left_out(tmp_path):
    manifest = make_manifest(tmp_path, 4)
    partial = tmp_path / "partial.json"
    score_manifest(manifest, Counting(), partial=partial, progress=False)
    (tmp_path / manifest.rows[0].image).unlink()
    scored = score_manifest(
        manifest, Counting(), partial=partial, max_bad_fraction=0.5, progress=False
    )
    assert [row.line for row in scored] == [3, 4, 5]


def test_05_not_one_readable_image(tmp_path):
    manifest = make_manifest(tmp_path, 2)
    for row in manifest:
        (tmp_path / row.image).unlink()
    with pytest.raises(ManifestError, match="2 of 2 images"):
        score_manifest(manifest, Counting(), max_bad_fraction=1.0, progress=False)


def test_05_the_command_takes_a_cap(tmp_path, capsys):
    manifest = make_manifest(tmp_path, 6)
    (tmp_path / manifest.rows[0].image).unlink()
    command = ["score", manifest.path, "--scorer", "ink"]
    assert main(command) == 1 and "max_bad_fraction = 0.01 allows" in capsys.readouterr().err
    assert main([*command, "--max-bad-fraction", "0.2"]) == 0
    assert len(read_manifest(tmp_path / "manifest-scored.csv")) == 5


# Where the output goes


@pytest.fixture
def read_only(small_disk):
    """A folder with a manifest of four images that nothing can be written to."""
    make_manifest(small_disk, 4)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    return small_disk


def test_a_read_only_folder_is_scored(read_only, tmp_path, caplog):
    manifest = read_only / "manifest.csv"
    with pytest.raises(ManifestError, match=r"nothing can be written in .*disk; give --output"):
        score_file(manifest, "no_such_module:scorer")  # before the scorer is looked for
    output = tmp_path / "new" / "scored.csv"
    with caplog.at_level(logging.INFO, "tglo"):
        score_file(manifest, "ink", output)
    assert f"are found with --root {os.path.realpath(read_only)}" in caplog.text
    assert [path.name for path in output.parent.iterdir()] == ["scored.csv"]
    scored = read_manifest(output, root=read_only)
    assert decode_image(scored.open_image(scored.rows[3])).size == (64, 64)
    original = read_manifest(manifest, require_scores=False)
    assert scored.sample_ids().tolist() == original.sample_ids().tolist()


def test_tars_are_scored_beside_them(tmp_path):
    make_tars(tmp_path)
    output = score_file(tmp_path / "shard-{000..001}.tar", "ink")
    assert output.name == "shard-{000..001}-scored.csv"
    assert len(read_manifest(output)) == 4


def test_a_tars_images_may_be_scored_elsewhere(tmp_path):
    (tmp_path / "data").mkdir(), (tmp_path / "out").mkdir()
    make_tars(tmp_path / "data")
    output = score_file(tmp_path / "data", "ink", tmp_path / "out" / "s.jsonl")
    scored = read_manifest(output, root=tmp_path / "data")
    assert [scored.open_image(row) for row in scored] == [png(n) for n in range(4)]


# A person's scores


def test_scores_in_the_manifest_itself_are_not_replaced(tmp_path):
    (tmp_path / "1.png").write_bytes(png(1))
    write_manifest(tmp_path / "m.csv", [Row(0, "a", "1.png", 4.0, 2)])
    with pytest.raises(ManifestError, match=r"m\.csv is the manifest itself, whose scores would"):
        score_file(tmp_path / "m.csv", "no_such_module:scorer", tmp_path / "x" / ".." / "m.csv")
    write_manifest(tmp_path / "m.csv", [Row(0, "a", "1.png", None, 2)])
    output = score_file(tmp_path / "m.csv", "ink", tmp_path / "m.csv")
    assert read_manifest(output).rows[0].score is not None


# Columns


def with_column(tmp_path, value, name="extra"):
    rows = [Row(0, "a", "1.png", None, 2, {name: value})]
    write_manifest(tmp_path / "m.parquet", rows)
    (tmp_path / "1.png").write_bytes(png(1))
    return tmp_path / "m.parquet"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_column_of_times_is_written(tmp_path, suffix):
    manifest = with_column(tmp_path, datetime(2024, 5, 1, 12))
    output = score_file(manifest, "ink", tmp_path / f"s{suffix}")
    assert read_manifest(output).rows[0].extra["extra"] == "2024-05-01T12:00:00"


def test_a_column_that_cannot_be_written_is_known_before_the_scorer_is(tmp_path):
    manifest = with_column(tmp_path, b"\xff")
    with pytest.raises(
        ManifestError, match=r"column 'extra' holds what \.jsonl cannot .*\.parquet"
    ):
        score_file(manifest, "no_such_module:scorer", tmp_path / "s.jsonl")
    read_manifest(score_file(manifest, "ink", tmp_path / "s.parquet"))


def test_a_column_in_the_way_is_known_before_the_scorer_is(tmp_path, capsys):
    (tmp_path / "m.csv").write_text("text,image,prompt,other_prompt\na,1.png,b,c\n")
    command = ["score", str(tmp_path / "m.csv"), "--scorer", "no_such_module:x"]
    assert main([*command, "--prompt-column", "text"]) == 1
    assert "extra columns ['prompt'] would overwrite" in capsys.readouterr().err


def test_a_column_that_has_the_name_of_the_chosen_one_is_kept_beside_it(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    (tmp_path / "m.csv").write_text("text,image,prompt\na,1.png,b\n")
    reading = ManifestOptions(prompt_column="text")
    row = read_manifest(score_file(tmp_path / "m.csv", "ink", reading=reading)).rows[0]
    assert (row.prompt, row.extra["other_prompt"]) == ("a", "b")


# Interruptions


class Stopped(BaseException):
    """Raised by the handler of a signal, as the command line's is."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_scored_before_a_signal_is_kept(tmp_path, number):
    manifest, partial = make_manifest(tmp_path, 9), tmp_path / "partial.json"

    def stop(*_):
        raise Stopped

    before = signal.signal(number, stop)
    try:
        with pytest.raises(Stopped):
            scorer = Counting(lambda: signal.raise_signal(number), 4)
            score_manifest(manifest, scorer, 2, partial=partial, progress=False)
    finally:
        signal.signal(number, before)
    assert len(json.loads(partial.read_text())["scores"]) == 4
    rest = Counting()
    score_manifest(manifest, rest, 2, partial=partial, progress=False)
    assert rest.count == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda c: [],
        lambda c: {**c, "scores": [1]},
        lambda c: {**c, "scores": {"x": [[1.0], "a"]}},
        lambda c: {**c, "scores": {"1": [[1.0]]}},
        lambda c: {**c, "scores": {"1": [["good"], "a"]}},
        lambda c: {**c, "scores": {"1": [[1.0, 2.0], "a"]}},
        lambda c: {**c, "scores": {"1": [[float("nan")], "a"]}},
        lambda c: {"format": c["format"], "scorers": c["scorers"]},
    ],
)
def test_a_malformed_file_of_partial_scores(tmp_path, change):
    manifest, partial = make_manifest(tmp_path, 2), tmp_path / "partial.json"
    score_manifest(manifest, Counting(), partial=partial, progress=False)
    content = json.loads(partial.read_text())
    del content["seal"]
    content = change(content)
    if isinstance(content, dict):
        content["seal"] = seal(content)
    partial.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"partial\.json is damaged or no file of partial .*remove it"
    ):
        score_manifest(manifest, Counting(), partial=partial, progress=False)


def test_a_changed_partial_score_is_refused_and_scored_again(tmp_path):
    manifest, partial = make_manifest(tmp_path, 3), tmp_path / "partial.json"
    whole = score_manifest(manifest, Counting(), partial=partial, progress=False)
    content = json.loads(partial.read_text())
    content["scores"][str(manifest.rows[1].sample_id)][0][0] += 1.0
    partial.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"partial\.json is damaged .*checksum\): remove it, and its images are"
    ):
        score_manifest(manifest, Counting(), partial=partial, progress=False)
    partial.unlink()
    again = score_manifest(manifest, Counting(), partial=partial, progress=False)
    assert again.scores().tolist() == whole.scores().tolist()


def test_partial_scores_of_the_version_without_a_checksum_go_on(tmp_path):
    manifest, partial = make_manifest(tmp_path, 3), tmp_path / "partial.json"
    score_manifest(manifest, Counting(), partial=partial, progress=False)
    content = json.loads(partial.read_text())
    del content["seal"]
    partial.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"partial\.json is damaged"):  # this version has one
        score_manifest(manifest, Counting(), partial=partial, progress=False)
    partial.write_text(json.dumps({**content, "format": "tglo.scores.2"}))
    rest = Counting()
    score_manifest(manifest, rest, partial=partial, progress=False)
    assert rest.count == 0 and "seal" in json.loads(partial.read_text())
