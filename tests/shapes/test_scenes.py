"""Sentences and scenes: one meaning each, sets that share nothing, words that are whole tokens."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from itertools import combinations

import numpy as np
import pytest

from examples.pretraining.shapes import TOKENS, build_pipeline
from tests import preloaded
from tglo.shapes import scenes
from tglo.shapes.scenes import Scene, Thing

EVERY = scenes.all_scenes(held_out=False) + scenes.all_scenes(held_out=True)
SETS = {"train": 256, "validation": 64, "seen": 64, "paraphrases": 64, "unseen": 64}


def test_number_of_scenes() -> None:
    # 48 things, 40 of them not held out; two axes; two different things in order.
    assert len(EVERY) == len(set(EVERY)) == 2 * 48 * 47
    assert len(scenes.all_scenes(held_out=False)) == 2 * 40 * 39
    assert {shape for _, shape in scenes.HELD_OUT} == set(scenes.SHAPES)


def test_every_sentence_means_its_scene() -> None:
    for scene in EVERY[:: len(EVERY) // 300]:
        found = (*scenes.plain(scene), *scenes.paraphrases(scene))
        assert len(set(found)) == 8
        assert [scenes.parse(sentence) for sentence in found] == [scene] * 8


def test_sentence_by_hand() -> None:
    scene = Scene("horizontal", Thing("small", "red", "cross"), Thing("large", "blue", "circle"))
    for text in (
        "a small red cross left of a large blue circle",
        "a large blue circle right of a small red cross",
        "a tiny red cross to the left of a big blue circle",
        "a large blue circle with a small red cross left of it",
        "right of a small red cross there is a large blue circle",
    ):
        assert scenes.parse(text) == scene
    assert scene.codes() == (1, 0, 0, 3, 1, 4, 0)


@pytest.mark.parametrize("text", ["a dog", "", "a small red cross above", "a large blue circle"])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 'a small red circle above"):
        scenes.parse(text)


def test_sets_are_repeatable_and_share_no_scene() -> None:
    sets = {name: scenes.prompt_set(name, count) for name, count in SETS.items()}
    assert sets == {name: scenes.prompt_set(name, count) for name, count in SETS.items()}
    asked = {name: {scenes.parse(p) for p in prompts} for name, prompts in sets.items()}
    assert all(len(asked[name]) == count for name, count in SETS.items())
    assert all(not asked[a] & asked[b] for a, b in combinations(SETS, 2))
    for name, found in asked.items():
        assert {scene.held_out for scene in found} == {name == "unseen"}
    plain = {text for scene in EVERY for text in scenes.plain(scene)}
    assert not plain & set(sets["paraphrases"])
    assert all(set(sets[name]) <= plain for name in SETS if name != "paraphrases")
    longer = scenes.prompt_set("train", 300)
    assert longer[:256] == sets["train"]


def test_sets_are_those_that_results_were_measured_on() -> None:
    text = "\n".join(
        prompt for name, count in SETS.items() for prompt in scenes.prompt_set(name, count)
    )
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest == "77c0987eab195de2", (
        "numpy drew another order, or the sets were changed: measure anew"
    )


@pytest.mark.parametrize(("name", "count"), [("train", 0), ("train", 781), ("unseen", 1393)])
def test_sets_of_impossible_sizes_are_refused(name: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"the set {name} has from 1 to"):
        scenes.prompt_set(name, count)
    with pytest.raises(ValueError, match="known are train"):
        scenes.prompt_set("test", 4)


def test_words_are_single_tokens_and_sentences_fit() -> None:
    tokenizer = build_pipeline().tokenizer
    words = {word for text in scenes.sentences() for word in text.split()}
    needed = (*scenes.SIZES, *scenes.COLOURS, *scenes.SHAPES, "tiny", "big", "over", "there")
    assert set(needed) <= words
    assert {word: tokenizer.tokenize(word) for word in words} == {w: [f"{w}</w>"] for w in words}
    texts = [t for s in EVERY[::17] for t in (*scenes.plain(s), *scenes.paraphrases(s))]
    longest = max(len(ids) for ids in tokenizer(texts).input_ids)
    assert longest < TOKENS  # room for a marker
    assert re.fullmatch(r"[a-z ]+", "".join(words) + " ")
    assert len(np.unique(tokenizer("+ - é").input_ids)) >= 5  # any text can be encoded


def test_tokens_have_the_same_numbers_in_every_process() -> None:
    program = (
        "from examples.pretraining.shapes import build_pipeline as b; import hashlib, json;"
        "text = json.dumps(b().tokenizer.backend_tokenizer.to_str());"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = preloaded.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    text = json.dumps(build_pipeline().tokenizer.backend_tokenizer.to_str())
    assert told.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()
