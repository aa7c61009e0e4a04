"""Folders of images with captions beside them, and their scores: in names, JSON files or a file of ratings."""

from __future__ import annotations

import json
import logging
import os

import pytest

from tests.data.test_manifest import png
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest, write_manifest


@pytest.fixture
def cats(tmp_path):
    """Three images with captions, one in a sub-folder, and files that are none of it."""
    folder = tmp_path / "cats"
    for n, name in enumerate(("b_7.5.png", "a_-2.png", "sub/c_1e1.JPG")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(n))
        (folder / name).with_suffix(".txt").write_text(f" a cat, number {n}\n")
    for name in (".hidden.txt", "README.txt", "b_7.5.npz", ".thumbs/x.png", "notes.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def read(folder, **options):
    return read_manifest(folder, **{"require_scores": False, **options})


def refusal(folder, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        read(folder, **options)
    return str(caught.value)


def test_images_and_captions_in_the_order_of_their_paths(cats):
    manifest = read(cats)
    assert [row.image for row in manifest] == ["a_-2.png", "b_7.5.png", "sub/c_1e1.JPG"]
    assert manifest.prompts() == [f"a cat, number {n}" for n in (1, 0, 2)]
    assert [manifest.open_image(row) for row in manifest] == [png(1), png(0), png(2)]
    assert [row.score for row in manifest] == [None] * 3


def test_ids_do_not_depend_on_the_order_of_the_disk(cats, tmp_path, monkeypatch):
    first = read(cats)
    entries = os.scandir

    class Reversed:
        def __init__(self, path):
            self.entries = sorted(entries(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    again = read(cats)
    assert (again.sha256, again.identity) == (first.sha256, first.identity)
    cats.rename(tmp_path / "moved")
    assert read(tmp_path / "moved").sha256 == first.sha256


def test_a_caption_file_and_its_coding(cats):
    (cats / "b_7.5.txt").rename(cats / "b_7.5.caption")
    (cats / "a_-2.txt").write_bytes(b"\xef\xbb\xbf" + "ein Bär\r\nmit Hut\r\n".encode())
    assert read(cats).prompts() == ["ein Bär\r\nmit Hut", "a cat, number 0", "a cat, number 2"]


# Scores


def test_scores_in_names_are_read_by_a_pattern_alone(cats):
    assert read(cats, score_pattern="*_{score}", require_scores=True).scores().tolist() == [
        -2,
        7.5,
        10,
    ]
    told = refusal(cats, require_scores=True)  # never guessed; the same reason is said once
    assert (
        "a_-2.png, b_7.5.png, sub/c_1e1.JPG: has no score" in told and told.count("no score") == 1
    )
    (cats / "scored.csv").write_text("prompt,image,score\n")
    assert f"If {cats / 'scored.csv'} is the manifest" in refusal(cats, require_scores=True)
    reason = r"a_-2.png, sub/c_1e1.JPG: its name does not fit the score pattern 'b_{score}'"
    assert reason in refusal(cats, score_pattern="b_{score}", require_scores=True)
    assert [row.score for row in read(cats, score_pattern="b_{score}")] == [None, 7.5, None]


@pytest.mark.parametrize(
    ("pattern", "name", "score"),
    [
        ("*{score}", "cat12", 12),
        ("*{score}", "cat-1.5", -1.5),
        ("{score}_*", "7.5_cat_2", 7.5),
        ("*_{score}", "cat_1_2", 2),
        ("*(s={score})*", "a(s=3)b", 3),
        ("*_{score}", "cat_good", None),
        ("*_{score}", "cat_1.2.3", None),
        ("*_{score}", "cat_1.", None),
    ],
)
def test_patterns(tmp_path, pattern, name, score):
    (tmp_path / f"{name}.png").write_bytes(png())
    (tmp_path / f"{name}.txt").write_text("a cat")
    assert read(tmp_path, score_pattern=pattern).rows[0].score == score


@pytest.mark.parametrize("pattern", ["*_", "*{score}{score}", ""])
def test_a_pattern_has_one_place_for_the_score(cats, pattern):
    assert "must have {score} once, as '*_{score}'" in refusal(cats, score_pattern=pattern)


def test_a_pattern_is_for_folders_of_images_alone(tmp_path):
    (tmp_path / "m.csv").write_text("prompt,image,score\na,b_1.png,1\n")
    assert "m.csv is none: leave it out" in refusal(tmp_path / "m.csv", score_pattern="*_{score}")


def describe(folder, name, **cells):
    (folder / name).with_suffix(".json").write_text(json.dumps(cells))


def test_json_beside_an_image_with_the_columns_flags(cats):
    for name, stars in (("b_7.5", 3), ("a_-2", 4.5), ("sub/c_1e1", 0)):
        describe(cats, cats / f"{name}.png", text="from JSON", stars=stars, tag="t")
    (cats / "b_7.5.txt").unlink()
    manifest = read(cats, prompt_column="text", score_column="stars", require_scores=True)
    assert manifest.scores().tolist() == [4.5, 3, 0]
    assert manifest.prompts()[1] == "from JSON"  # where there is no caption
    assert manifest.rows[0].extra == {"tag": "t"}
    text = refusal(cats, require_scores=True)
    assert (
        "b_7.5.png: its JSON file has no 'prompt' for the prompt; it has ['stars', 'tag', 'text']"
        in text
    )
    assert "--prompt-column" in text and "--score-column" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratings.csv", "file_name,score\nb_7.5.png,1\na_-2.png,2\nsub/c_1e1.JPG,3\n"),
        ("ratings.tsv", "score\timage\n1\tb_7.5.png\n2\ta_-2.png\n3\tc_1e1.JPG\n"),
        (
            "ratings.jsonl",
            '{"file_name": "b_7.5.png", "score": 1, "by": "me"}\n{"file_name": "a_-2.png", "score": 2}\n'
            '{"file_name": "c_1e1.JPG", "score": 3}\n',
        ),
        ("ratings.json", '{"b_7.5.png": 1, "a_-2.png": {"score": 2}, "c_1e1.JPG": 3}'),
        (
            "ratings.json",
            '[{"image": "b_7.5.png", "score": 1}, {"image": "a_-2.png", "score": 2}, '
            '{"image": "c_1e1.JPG", "score": 3}]',
        ),
    ],
)
def test_a_file_of_ratings(cats, name, text):
    (cats / name).write_text(text)
    assert read(cats, require_scores=True).scores().tolist() == [2, 1, 3]


def test_ratings_that_fit_no_image(cats):
    (cats / "sub/b_7.5.png").write_bytes(png(8))
    (cats / "sub/b_7.5.txt").write_text("another of that name")
    (cats / "other").mkdir()
    (cats / "sub/c_1e1.JPG").rename(cats / "other/c_1e1.JPG")
    (cats / "sub/c_1e1.txt").rename(cats / "other/c_1e1.txt")
    (cats / "b_7.5.png").rename(cats / "other/b_7.5.png")
    (cats / "b_7.5.txt").rename(cats / "other/b_7.5.txt")
    (cats / "ratings.csv").write_text(
        "file_name,score\nb_7.5.png,1\ndog.png,2\na_-2.png,good\nc_1e1.JPG,3\nother/c_1e1.JPG,4\n"
    )
    text = refusal(cats)
    assert "line 2: rates b_7.5.png, which may be other/b_7.5.png or sub/b_7.5.png" in text
    assert "ratings.csv, line 3: rates dog.png, which is not in the folder" in text
    assert "ratings.csv, line 4: the score of a_-2.png is 'good', not a number" in text
    assert "line 6: rates other/c_1e1.JPG, which line 5 does already" in text
    (cats / "ratings.csv").write_text("file,score\nb_7.5.png,1\n")
    assert "has no column 'image' for the image; its columns are ['file', 'score']" in refusal(cats)
    (cats / "ratings.json").write_text("{")
    assert "has ratings.csv and ratings.json: leave one" in refusal(cats)
    (cats / "ratings.csv").unlink()
    assert "ratings.json is damaged or no file of ratings" in refusal(cats)


def test_an_image_with_two_scores(cats):
    (cats / "ratings.json").write_text('{"b_7.5.png": 7.5, "a_-2.png": 3}')
    text = refusal(cats, score_pattern="*_{score}")
    assert "a_-2.png: has two scores, 3 in ratings.json and -2.0 in its name: leave one" in text
    assert "1 of 3 rows" in text
    assert "sub/c_1e1.JPG: ratings.json has no score of it" in refusal(cats, require_scores=True)


# What is wrong with files


def test_an_image_without_a_caption_and_a_caption_without_an_image(cats):
    (cats / "b_7.5.txt").rename(cats / "b.txt")
    text = refusal(cats)
    assert "b_7.5.png: has no caption: write b_7.5.txt, or take the image away" in text
    assert "b.txt: is a caption without an image" in text


def test_two_captions_and_two_images_of_one_name(cats):
    (cats / "b_7.5.caption").write_text("another")
    (cats / "a_-2.webp").write_bytes(png())
    text = refusal(cats)
    assert "b_7.5.png: has the captions b_7.5.caption and b_7.5.txt: leave one" in text
    assert "a_-2.png and a_-2.webp have one name and so one caption" in text


def test_captions_that_are_empty_or_no_text(cats):
    (cats / "a_-2.txt").write_text(" \n")
    (cats / "b_7.5.txt").write_bytes("Bär".encode("latin-1"))
    (cats / "sub/c_1e1.txt").write_bytes(b"x" * (2**20 + 1))
    text = refusal(cats)
    assert "its caption a_-2.txt is empty" in text
    assert "b_7.5.txt is not UTF-8 (byte 0xe4 at 1): save it as UTF-8" in text
    assert "sub/c_1e1.txt has more than 1048576 bytes" in text


@pytest.mark.parametrize(
    ("json", "why"), [("{", "cannot be read as JSON"), ("[1]", "is no JSON object")]
)
def test_json_that_is_none(cats, json, why):
    (cats / "b_7.5.json").write_text(json)
    assert f"b_7.5.json {why}" in refusal(cats)


def test_a_score_in_json_that_is_no_number(cats):
    describe(cats, cats / "b_7.5.png", score="good")
    assert "b_7.5.png: the score is 'good', not a number" in refusal(cats)


def test_a_folder_without_captions_names_what_may_be_meant(tmp_path):
    (tmp_path / "1.png").write_bytes(png())
    (tmp_path / "manifest.csv").write_text("prompt,image\na,1.png\n")
    text = refusal(tmp_path)
    assert "has 1 images, and none has its prompt beside it: write that of 1.png into 1.txt" in text
    assert f"If {tmp_path}/manifest.csv is the manifest, give that" in text


def test_repeats_are_not_taken_and_it_is_said_once(cats, caplog):
    (cats / "sub").rename(cats / "10_cats")
    with caplog.at_level(logging.INFO, "tglo"):
        assert len(read(cats)) == 3
    assert caplog.text.count("repeats in the names of folders, as in 10_cats, are not taken") == 1


def test_json_of_no_image_is_told(cats, caplog):
    (cats / "meta_cap.json").write_text("{}")
    with caplog.at_level(logging.WARNING, "tglo"):
        read(cats)
    assert "belong to no image and are not used: 1, meta_cap.json for one" in caplog.text


# Links, roots


def test_links_that_leave_the_folder_need_a_root(cats, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for name in ("d.png", "d.txt", "e.png", "e.txt"):
        (store / name).write_bytes(png(5) if name.endswith("png") else b"a dog")
    (cats / "d.png").symlink_to(store / "d.png")
    (cats / "d.txt").symlink_to(store / "d.txt")
    (cats / "all").symlink_to(store)
    (cats / "round").symlink_to(cats)  # is not followed round and round
    text = refusal(cats)
    for name in ("d.png", "d.txt", "all"):
        assert f"{name}: '{name}' is a link out of the data folder" in text
    assert f"--root (data.root): {tmp_path}" in text and "3 of 6 rows" in text
    manifest = read(cats, root=tmp_path)
    added = {"all/d.png", "all/e.png", "d.png"}
    assert {row.image for row in manifest} - {row.image for row in read_without(cats)} == added
    assert manifest.open_image(manifest.rows[2]) == png(5)


def read_without(cats):
    for name in ("d.png", "d.txt", "all"):
        (cats / name).rename(cats.parent / f"aside-{name}")
    try:
        return read(cats)
    finally:
        for name in ("d.png", "d.txt", "all"):
            (cats.parent / f"aside-{name}").rename(cats / name)


def test_with_a_root_a_name_is_still_that_of_the_folder(cats, tmp_path):
    (tmp_path / "b_7.5.png").write_bytes(png(9))
    (tmp_path / "link.png").symlink_to(tmp_path / "b_7.5.png")
    manifest = read(cats, root=tmp_path)
    assert manifest.open_image(manifest.rows[1]) == png(0)
    assert manifest.sha256 == read(cats).sha256


def test_what_is_written_is_read_again(cats):
    manifest = read(cats, score_pattern="*_{score}")
    write_manifest(cats / "scored.csv", manifest)
    again = read_manifest(cats / "scored.csv")
    assert again.sha256 == manifest.sha256
    assert [again.open_image(row) for row in again] == [png(1), png(0), png(2)]
    assert read(cats, score_pattern="*_{score}").sha256 == manifest.sha256
