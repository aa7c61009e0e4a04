from __future__ import annotations

import logging
import sys

import pytest

from tests.rewards.published_qwen2vl import GRADE, RATE
from tglo.rewards.hpsv3 import INSTRUCTION, HPSv3
from tglo.rewards.instructions import Instruction
from tglo.rewards.videoreward import REWARDS, VideoReward
from tglo.rewards.weights import locate

TWO = Instruction("me/code", "a/asked.py", ("FIRST", "SECOND"), ("<|A|>", "<|B|>"), digest="x")
GOOD = "<|A|> {text_prompt}\n<|B|>"


def test_the_strings_of_a_python_file_are_joined_and_nothing_runs(tmp_path):
    path = tmp_path / "asked.py"
    path.write_bytes(
        b"import no_such_module\r\nFIRST = 'old'\r\nFIRST = OTHER = '''\r\n<|A|> '''\r\n"
        b'SECOND = ("{text_prompt}"\r\n "\\u00e9<|B|>")\r\nraise SystemExit(1)\r\n'
    )
    assert TWO.read(path) == "\n<|A|> {text_prompt}é<|B|>"


def test_a_text_file_is_the_text(tmp_path):
    path = tmp_path / "any.txt"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n")
    assert TWO.read(path) == GOOD + "\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "FIRST = 'x'\nSECOND = f'{FIRST}'\n", r"has no string SECOND; take a/asked\.py"),
        ("a.py", "SECOND = 2\n", "has no string FIRST and SECOND"),
        ("a.py", "FIRST = (\n", "is no Python"),
        ("a.py", "a\0b", "is no Python"),
        ("a.txt", "", r"has \{text_prompt\} 0 times, not once; take a.asked.py"),
        ("a.txt", GOOD + "{text_prompt}", r"has \{text_prompt\} 2 times"),
        ("a.txt", "{text_prompt}<|A|>", r"has <\|B\|> 0 times"),
        ("a.txt", "{text_prompt}<|B|><|A|>", r"<\|A\|>, <\|B\|> in this order"),
        ("a.txt", "<|A|><|B|>{text_prompt}", r"\{text_prompt\} before the last"),
        ("a.txt", "\udc80", "is no text in UTF-8"),
        ("a.txt", "a" * (2**20 + 1), "has more than 1048576 bytes"),
    ],
)
def test_what_is_no_instruction_is_refused_with_where_to_find_one(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"{name} .*{message}") as error:
        TWO.read(path)
    assert "a/asked.py of github.com/me/code, or a text file with FIRST and" in str(error.value)


def test_other_words_than_the_published_ones_are_told(tmp_path, caplog):
    path = tmp_path / "mine.txt"
    path.write_text(RATE + GRADE)
    with caplog.at_level(logging.WARNING, "tglo"):
        INSTRUCTION.read(path)
    assert "is not word for word what MizzenAI/HPSv3 publishes in hpsv3/dataset/" in caplog.text


def test_without_the_file_nothing_is_downloaded_and_its_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    for name, kind, url in (
        ("hpsv3", HPSv3, r"HPSv3/blob/main/hpsv3/dataset/data_collator_qwen\.py"),
        ("videoreward", VideoReward, r"KwaiVGI/VideoAlign/blob/main/prompt_template\.py"),
    ):
        remedy = rf"from https://github\.com/.*{url} and name .* {name}=\.\.\.,instruction=\./PLACE"
        with pytest.raises(ValueError, match=rf"instruction file is not on the hub\. .*{remedy}"):
            locate(name, {}, kind.parts)


def test_an_installed_package_has_it_and_is_not_imported(tmp_path, monkeypatch):
    place = tmp_path / "hpsv3" / "dataset"
    place.mkdir(parents=True)
    (tmp_path / "hpsv3" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert INSTRUCTION.part.installed is None
    (place / "data_collator_qwen.py").write_text("x = 1")
    assert INSTRUCTION.part.installed == place / "data_collator_qwen.py"
    assert "hpsv3" not in sys.modules


def test_the_file_lies_beside_the_weights_under_either_name(tmp_path):
    part = INSTRUCTION.part
    for name in ("instruction.txt", "data_collator_qwen.py"):
        (tmp_path / name).write_text("x")
        assert part.inside(tmp_path) == tmp_path / name
    assert REWARDS == ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
