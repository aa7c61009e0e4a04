"""Separators, decimal marks, and rows that are nearly JSON."""

from __future__ import annotations

import pytest

from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest, write_manifest


def write(folder, text, name="m.csv"):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_header_tells_the_separator(tmp_path, separator, name):
    rows = [["prompt", "image", "score", "note"], ["a b", "1.png", "0.5", "x"]]
    text = "".join(separator.join(row) + "\n" for row in rows)
    (row,) = read_manifest(write(tmp_path, "\ufeff" + text, name))
    assert (row.prompt, row.image, row.score, row.extra) == ("a b", "1.png", 0.5, {"note": "x"})
    assert row.line == 2


def test_a_separator_inside_a_prompt_is_text(tmp_path):
    text = 'prompt,image,score\n"a; b\tc, d",1.png,1\n'
    assert read_manifest(write(tmp_path, text)).prompts() == ["a; b\tc, d"]
    text = 'prompt;image;score\n"a; b\tc, d";1.png;1\nx, y;2.png;2\n'
    assert read_manifest(write(tmp_path, text)).prompts() == ["a; b\tc, d", "x, y"]


def test_missing_columns_are_those_of_the_right_separator(tmp_path):
    path = write(tmp_path, "text;file;stars\na;1.png;1\n")
    with pytest.raises(ManifestError, match=r"are \['text', 'file', 'stars'\].*--prompt-column"):
        read_manifest(path)
    columns = {"prompt_column": "text", "image_column": "file", "score_column": "stars"}
    assert read_manifest(path, **columns).scores().tolist() == [1.0]


def test_decimal_commas_between_semicolons(tmp_path):
    path = write(tmp_path, "prompt;image;score\na;1.png;1,5\nb;2.png;-2\nc;3.png;1,5e-3\n")
    assert read_manifest(path).scores().tolist() == [1.5, -2.0, 0.0015]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "prompt;image;score\na;1.png;1.5\nb;2.png;2,5\n",
            r"line 3: .*'2,5' has another decimal mark",
        ),
        (
            "prompt;image;score\na;1.png;1,234\nb;2.png;2.5\n",
            r"line 3: .*'2\.5' has another decimal",
        ),
        ("prompt;image;score\na;1.png;1.234,5\n", r"line 2: the score is '1\.234,5', not a number"),
        (
            "prompt\timage\tscore\na\t1.png\t1,5\n",
            r"'1,5', not a number \(decimal commas are read wh",
        ),
        (
            'prompt,image,score\na,1.png,"1,5"\n',
            r"'1,5', not a number \(decimal commas are read wh",
        ),
    ],
)
def test_other_commas_in_scores_are_refused(tmp_path, text, reason):
    with pytest.raises(ManifestError, match=reason):
        read_manifest(write(tmp_path, text))


def test_tabs_are_written_and_read_with_every_bit(tmp_path):
    text = 'prompt,image,score\n"a\tb, ""c""\nd",1.png,0.1\n'
    rows = read_manifest(write(tmp_path, text)).rows
    write_manifest(tmp_path / "copy.tsv", rows)
    assert (tmp_path / "copy.tsv").read_text().startswith("prompt\timage\tscore\n")
    assert read_manifest(tmp_path / "copy.tsv").rows == rows
