"""Prompts beyond 77 tokens in chunks: each chunk is a prompt of its own, one after another."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import tiny
from tglo import models
from tglo.cache.latents import LatentCache
from tglo.cache.make import build
from tglo.data.errors import CacheError
from tglo.generation.generate import generate_images
from tglo.settings import ModelOptions, SamplingOptions

CHUNKS = ModelOptions(long_prompts="chunks", prompt_chunks=3)
WORDS = [letter * 25 for letter in "abcdefghij"]  # three fill a chunk: a token is a byte here


def text(*words: str) -> str:
    return " ".join(words)


def test_each_chunk_is_a_prompt_of_its_own(kind: str, folders: dict[str, Path]) -> None:
    plain, chunked = models.load(folders[kind]), models.load(folders[kind], options=CHUNKS)
    prompts = [text(*WORDS[:5]), "short", ""]
    found = chunked.text(prompts)
    chunks = [text(*WORDS[:3]), text(*WORDS[3:5]), ""]
    alone = plain.text([*chunks, "short"])["prompt_embeds"]
    embeds = found["prompt_embeds"]
    assert embeds.shape == (3, 231, alone.shape[2])
    torch.testing.assert_close(embeds[0], alone[:3].flatten(0, 1))
    torch.testing.assert_close(embeds[1], torch.cat([alone[3], alone[2], alone[2]]))
    torch.testing.assert_close(embeds[2], torch.cat([alone[2]] * 3))
    if kind == "sdxl":
        first = plain.text([chunks[0], "short", ""])["pooled_prompt_embeds"]
        torch.testing.assert_close(found["pooled_prompt_embeds"], first)
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in found.items()}
    assert chunked.text_shapes() == shapes
    for name, tensor in chunked.unconditional().items():
        assert tensor.shape[1:] == found[name].shape[1:]
    plain.text(prompts)
    assert plain.truncated_prompts == 1 and chunked.truncated_prompts == 0


def test_what_is_beyond_the_chunks_is_cut_and_counted(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    family = models.load(folders["sd15"], options=CHUNKS)
    longest, longer = text(*WORDS[:9]), text(*WORDS[:10])
    found = family.text([longest, longer])["prompt_embeds"]
    torch.testing.assert_close(found[0], found[1])
    with caplog.at_level(logging.WARNING):
        family.prompts.report()
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "1 of 2 prompts are longer than 225 tokens" in told and "have the same tokens" in told


def test_other_families_and_numbers_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    tiny.build_amused(tmp_path / "amused")
    with pytest.raises(ValueError, match=r"long_prompts is chunks.*SDXL.*leave it out"):
        models.load(tmp_path / "amused", options=CHUNKS)
    with pytest.raises(ValueError, match=r"prompt_chunks is 1; it must be from 2 to 16"):
        models.load(folders["sd15"], options=ModelOptions(long_prompts="chunks", prompt_chunks=1))


def test_a_cache_says_its_chunks_and_other_uses_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with (tmp_path / "scored.csv").open("w", newline="") as file:
        rows = [("prompt", "image", "score")]
        rows += [(text(*WORDS[: 2 + 3 * n]), f"{n}.png", n) for n in range(2)]
        csv.writer(file).writerows(rows)
    for number in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
    kept = {}
    for name, options in {"cut": ModelOptions(), "chunks": CHUNKS}.items():
        where = (str(folders["sdxl"]), tmp_path / "scored.csv", tmp_path / name)
        build(*where, resolution=16, device="cpu", loading=options)
        cache, family = (
            LatentCache(tmp_path / name),
            models.load(folders["sdxl"], options=options),
        )
        cache.check(family.fingerprint())
        kept[name] = (cache, family)
    assert "prompt_chunks" not in kept["cut"][0].fingerprint
    assert kept["chunks"][0].text([text(*WORDS[:5])])["prompt_embeds"].shape[1] == 231
    for cache, other in (("cut", "chunks"), ("chunks", "cut")):
        with pytest.raises(CacheError, match=rf"model.long_prompts .*is '{cache}.* and '{other}"):
            kept[cache][0].check(kept[other][1].fingerprint())


def test_generation_reads_the_whole_prompt(folders: dict[str, Path], tmp_path: Path) -> None:
    options = SamplingOptions(steps=1, guidance=3, height=16, width=16)
    prompts = [text(*WORDS[:5]), text(*WORDS[:4])]
    images = {}
    for name, loading in {"cut": ModelOptions(), "chunks": CHUNKS}.items():
        family = models.load(folders["sd15"], options=loading)
        made = family.generate(prompts, [1, 1], options)
        images[name] = [image.tobytes() for image in made]
    assert images["cut"][0] == images["cut"][1]
    assert images["chunks"][0] != images["chunks"][1]
    where = (str(folders["sd15"]), prompts, tmp_path / "out", options)
    generate_images(*where, device="cpu", batch_size=2)
    told = r"model.long_prompts .*is 'cut' there and 'chunks \(model.prompt_chunks 3\)' here"
    with pytest.raises(ValueError, match=told):
        generate_images(*where, device="cpu", batch_size=2, loading=CHUNKS)
