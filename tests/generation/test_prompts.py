"""Prompt sets from small files in the published formats, and from files of one's own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tglo.generation import prompts
from tglo.generation.prompts import PromptSet, load_prompts, read_pairs, read_prompts


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published sets, of which 2 (of HPSv2: 2 of each style) are expected here."""
    counts = {"pickapic": 2, "parti": 2, "hpsv2": 8}
    for name, count in counts.items():
        published = dataclasses.replace(prompts.PUBLISHED[name], count=count)
        monkeypatch.setitem(prompts.PUBLISHED, name, published)
    monkeypatch.setattr(prompts, "HPSV2_EACH", 2)


def test_published_counts() -> None:
    counts = {name: published.count for name, published in prompts.PUBLISHED.items()}
    assert counts == {"pickapic": 424, "parti": 1632, "hpsv2": 3200}


def test_parti_keeps_quotation_marks_and_has_categories(small: None, tmp_path: Path) -> None:
    path = tmp_path / "PartiPrompts.tsv"
    path.write_text(
        "Prompt\tCategory\tChallenge\tNote\n"
        '"G I G G L E" painted on a wall.\tWorld Knowledge\tWriting & Symbols\t\n'
        "a bird \tAnimals\tBasic\tnone\n"
    )
    assert load_prompts("parti", path) == PromptSet(
        "parti",
        ('"G I G G L E" painted on a wall.', "a bird"),
        ("World Knowledge", "Animals"),
    )
    path.write_text("Prompt\tCategory\na bird\tAnimals\n")
    with pytest.raises(ValueError, match="has 1 prompts, 1 fewer than the 2 of parti"):
        load_prompts("parti", path)
    path.write_text("prompt\na bird\n")
    with pytest.raises(ValueError, match=r"no column \['Category', 'Prompt'\]"):
        load_prompts("parti", path)


def test_hpsv2_takes_its_four_files(small: None, tmp_path: Path) -> None:
    for style in ("anime", "concept-art", "paintings"):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} 1", f"{style} 2"]))
    with pytest.raises(ValueError, match=r"lacks photo\.json"):
        load_prompts("hpsv2", tmp_path)
    (tmp_path / "photo.json").write_text(json.dumps(["a cat"]))
    with pytest.raises(ValueError, match=r"photo\.json has 1 prompts; the benchmark's has 2"):
        load_prompts("hpsv2", tmp_path)
    (tmp_path / "photo.json").write_text(json.dumps(["a cat", "a dog"]))
    loaded = load_prompts("hpsv2", tmp_path)
    assert loaded.prompts[-2:] == ("a cat", "a dog")
    assert loaded.categories == tuple(s for s in prompts.HPSV2_STYLES for _ in range(2))


def test_hpsv2_counts_every_entry(small: None, tmp_path: Path) -> None:
    """Published averages go over all entries, those that repeat a prompt too."""
    for style in prompts.HPSV2_STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps(["a cat", f"{style} 2"]))
    loaded = load_prompts("hpsv2", tmp_path)
    assert len(loaded.prompts) == len(loaded.categories) == 8
    assert loaded.prompts.count("a cat") == 4
    assert loaded.categories[::2] == prompts.HPSV2_STYLES


def test_pickapic_takes_distinct_captions(
    small: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, captions in enumerate((["a cat", "a dog"], ["a dog"])):
        table = pa.table({"caption": captions, "jpg_0": [b"image"] * len(captions)})
        parquet.write_table(table, tmp_path / f"test-{number}.parquet")
    assert load_prompts("pickapic", tmp_path) == PromptSet("pickapic", ("a cat", "a dog"))
    (tmp_path / "test.csv").write_text("caption,label_0\na cat,1\na cat,0\na dog,1\na cow,1\n")
    assert not caplog.messages
    assert len(load_prompts("pickapic", tmp_path / "test.csv").prompts) == 3
    assert "has 3 prompts, 1 more than the 2 of pickapic" in caplog.text
    parquet.write_table(pa.table({"caption": [""]}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="has 0 prompts, 2 fewer than the 2 of pickapic"):
        load_prompts("pickapic", tmp_path / "none.parquet")
    parquet.write_table(pa.table({"prompt": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column 'caption'"):
        load_prompts("pickapic", tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a cat\n\n  a dog \n"),
        ("a.json", '["a cat", "a dog"]'),
        ("a.json", '[{"prompt": "a cat"}, {"caption": "a dog"}]'),
        ("a.jsonl", '{"prompt": "a cat"}\n{"prompt": "a dog"}\n'),
        ("a.txt", "a cat\r\na dog\r\n"),
        ("a.csv", "Prompt,score\na cat,1\na dog,2\n"),
        ("a.tsv", "\ufeffid\ttext\n1\ta cat\n2\ta dog\n"),
    ],
)
def test_files_of_ones_own(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_prompts(tmp_path / name) == ["a cat", "a dog"]


def test_other_line_separators_are_part_of_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a\u2028cat"}\n', encoding="utf-8")
    (tmp_path / "a.txt").write_text("a\u2028cat\n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.jsonl") == read_prompts(tmp_path / "a.txt") == ["a\u2028cat"]


def test_repeated_prompts_are_taken_once_with_their_category(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('prompt,category\n"a, b",x\nc,y\n"a, b",z\n')
    assert load_prompts("mine", path) == PromptSet("mine", ("a, b", "c"), ("x", "y"))
    path.write_text("prompt,category\na,x\nc,\n")
    assert load_prompts("mine", path).categories == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n\n", "has no prompts"),
        ("a.json", '{"prompt": "a"}', "holds a dict, not a list"),
        ("a.json", "[1]", "entry 1 is a int"),
        ("a.json", "[", "no prompts can be read from"),
        ("a.csv", "name\na cat\n", "entry 1 has no text as prompt, caption or text"),
    ],
)
def test_files_without_prompts_are_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        *((f"a{suffix}", b"\xff\xfe\xfa", "can't decode byte 0xff")
          for suffix in (".txt", ".json", ".jsonl", ".csv", ".tsv")),
        ("a.json", b"[" * 100_000, "it is nested too deeply"),
        ("a.jsonl", b"[" * 100_000, "it is nested too deeply"),
        ("a.json", b'["a cat", "\\ud800"]', r"prompt 2 has half a surrogate pair, '\\ud800'"),
        ("a.json", b'[{"text": "a", "category": "\\udc00"}]', "prompt 1 has half a surrogate pair"),
        ("a.jsonl", b'{"prompt": "\\ud800"}', "prompt 1 has half a surrogate pair"),
        ("a.txt", "a cat\n".encode("utf-16-le"), "prompt 1 has a NUL character"),
        ("a.csv", b"prompt\na\0cat\n", "NUL"),
        ("a.json", b'["a\\u0000cat"]', "prompt 1 has a NUL character"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_prompts_are_a_sentence_with_the_path(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^no prompts can be read from {path}: .*{message}"):
        read_prompts(path)


def test_bytes_that_are_no_published_set_are_a_sentence(small: None, tmp_path: Path) -> None:
    path = tmp_path / "PartiPrompts.tsv"
    path.write_bytes(b"Prompt\tCategory\n\xff\tAnimals\n")
    with pytest.raises(ValueError, match=rf"no prompts can be read from {path}: .*byte 0xff"):
        load_prompts("parti", path)
    path = tmp_path / "test.parquet"
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    parquet.write_table(pa.table({"caption": broken}), path)
    with pytest.raises(ValueError, match=rf"{path} gives no column 'caption': .*byte 0xff"):
        load_prompts("pickapic", path)
    parquet.write_table(pa.table({"caption": ["a cat", None, "a dog"]}), path)
    assert load_prompts("pickapic", path).prompts == ("a cat", "a dog")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("mine", "parti", "pickapic"):
        with pytest.raises(ValueError, match=r"absent\.txt does not exist"):
            load_prompts(name, tmp_path / "absent.txt")
