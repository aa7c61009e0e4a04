"""Generation: what an image depends on, sharing, resuming after a kill at any point, batch sizes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny, tiny_flow
from tglo import models
from tglo.data.manifest import read_manifest, write_manifest
from tglo.generation import generate as generation
from tglo.generation import image_files
from tglo.generation.generate import Planned, generate_images, plan_images
from tglo.models.text import PromptTally
from tglo.settings import SamplingOptions

SAMPLING = SamplingOptions(2, 2.0)
OPTIONS: dict[str, Any] = {"options": SAMPLING, "device": "cpu"}
PROMPTS = ["a temple", "a flower", "a cat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.build_sd15(tmp_path_factory.mktemp("generation") / "model"))


def changed(**options: Any) -> dict[str, Any]:
    return {**OPTIONS, "options": replace(SAMPLING, **options)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_plan_goes_round_the_prompts_and_a_repeated_one_counts_on() -> None:
    planned = plan_images(["a", "b", "a"], 2)
    assert [(image.prompt, image.index) for image in planned] == [
        ("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1), ("a", 3)
    ]  # fmt: skip
    assert len({image.name for image in planned}) == 6


def test_seeds_of_a_prompt_differ_and_stay_in_torchs_range() -> None:
    many = [Planned("a", index).seed(0) for index in range(2000)]
    assert len({*many}) == 2000 and 0 <= min(many) and max(many) < 2**32
    others = [Planned("b", 0).seed(0), Planned("a", 0).seed(1), Planned("a", 0).seed(1_000_000)]
    assert len({many[0], *others}) == 4


def test_more_prompts_and_a_larger_count_change_no_image(model: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a temple\na flower\n")
    manifest = generate_images(model, tmp_path / "prompts.txt", tmp_path / "out", **OPTIONS)
    before = files(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()}
    generate_images(model, ["a cat", "a flower", "a temple"], tmp_path / "out", count=3, **OPTIONS)
    after = files(tmp_path / "out")
    assert len(before) == 2 and len(after) == 9 and before.items() <= after.items()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    rows = read_manifest(manifest, require_scores=False)
    assert rows.prompts() == ["a cat", "a flower", "a temple"] * 3
    direct = models.load(model).generate(["a cat"], [Planned("a cat", 2).seed(0)], SAMPLING)
    made = Image.open(tmp_path / "out" / rows.rows[6].image)
    assert np.abs(np.asarray(direct[0]).astype(int) - np.asarray(made)).max() <= 1


def test_the_manifest_tells_each_images_noise_and_an_older_one_comes_to_tell_it(
    model: str, tmp_path: Path
) -> None:
    manifest = generate_images(model, PROMPTS, tmp_path, count=2, seed=3, **OPTIONS)
    written, rows = manifest.read_bytes(), read_manifest(manifest, require_scores=False)
    assert [dict(row.extra) for row in rows] == [
        {"seed": str(image.seed(3)), "family": "stable-diffusion"}
        for image in plan_images(PROMPTS, 2)
    ]
    write_manifest(manifest, rows.with_rows(replace(row, extra={}) for row in rows))
    older, images = read_manifest(manifest, require_scores=False), files(tmp_path)
    assert older.identity == rows.identity and older.sha256 == rows.sha256
    generate_images(model, PROMPTS, tmp_path, count=2, seed=3, **OPTIONS)
    assert manifest.read_bytes() == written and files(tmp_path) == images


def test_first_seeds_give_other_images(model: str, tmp_path: Path) -> None:
    for seed in (0, 1):
        generate_images(model, ["a cat"], tmp_path / str(seed), count=2, seed=seed, **OPTIONS)
    assert len({*files(tmp_path / "0").values(), *files(tmp_path / "1").values()}) == 4


def test_processes_share_the_images_without_a_word(model: str, tmp_path: Path) -> None:
    options = {**OPTIONS, "count": 3, "batch_size": 2}
    generate_images(model, PROMPTS, tmp_path / "alone", **options)
    shared = tmp_path / "shared"
    first = generate_images(model, PROMPTS, shared, rank=1, world_size=2, **options)
    assert not first.exists() and len(files(shared)) == 4
    second = generate_images(model, PROMPTS, shared, rank=0, world_size=2, **options)
    assert files(shared) == files(tmp_path / "alone")
    assert second.read_bytes() == (tmp_path / "alone/manifest.csv").read_bytes()


def test_waiting_ends_when_the_others_images_are_there(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(seconds: float) -> None:
        generate_images(model, PROMPTS, tmp_path, rank=1, world_size=2, batch_size=1, **OPTIONS)

    monkeypatch.setattr(generation.time, "sleep", other)
    manifest = generate_images(
        model, PROMPTS, tmp_path, rank=0, world_size=2, batch_size=1, wait=True, **OPTIONS
    )
    assert len(read_manifest(manifest, require_scores=False)) == 3


def test_waiting_ends_when_no_other_process_makes_an_image(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process does not keep the others for ever."""
    options: dict[str, Any] = {"batch_size": 1, **OPTIONS}
    generate_images(model, PROMPTS, tmp_path, rank=0, world_size=2, **options)
    os.utime(tmp_path / "images", (1, 1))  # long ago: only what is waited counts
    slept = []
    sleep = time.sleep

    def counted(seconds: float) -> None:
        slept.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(generation.time, "sleep", counted)
    monkeypatch.setattr(generation, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(generation, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(RuntimeError, match="images lacks 1 images of other.* failed or was never"):
        generate_images(model, PROMPTS, tmp_path, rank=0, world_size=2, wait=True, **options)
    assert len(slept) >= 2
    # The same command with one process makes it itself.
    assert generate_images(model, PROMPTS, tmp_path, wait=True, **options).is_file()


def test_a_finished_image_is_looked_at_once_while_others_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan_images(["a", "b", "c"], 1)
    looked: list[str] = []

    def watched(path: Path) -> bool:
        looked.append(path.name)
        return image_files.is_whole(path)

    def another(seconds: float) -> None:
        name = planned[len(list(tmp_path.iterdir()))].name
        image_files.publish_images(tmp_path, {name: Image.new("RGB", (4, 4))})

    monkeypatch.setattr(generation, "is_whole", watched)
    monkeypatch.setattr(generation.time, "sleep", another)
    generation._wait_for(planned, tmp_path)
    assert looked == [image.name for image in planned]


def test_publishing_a_batch_does_not_list_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    scandir, listdir = os.scandir, os.listdir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path)) or scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(Path(path)) or listdir(path))
    image_files.publish_images(tmp_path, {"a.png": Image.new("RGB", (4, 4))})
    assert (tmp_path / "a.png").is_file()
    assert listed and tmp_path not in listed


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Call with n: the n-th change of a name on the disk from now on fails."""
    calls = {"left": -1}
    replace = os.replace

    def counted(*arguments: Any) -> None:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise KeyboardInterrupt
        replace(*arguments)

    monkeypatch.setattr(os, "replace", counted)
    yield lambda number: calls.update(left=number)


def test_a_kill_at_any_change_of_a_name_leaves_what_goes_on_to_the_same_bits(
    model: str, tmp_path: Path, interrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = models.load(model)
    monkeypatch.setattr(models, "load", lambda *a, **k: family)
    options = {**OPTIONS, "count": 2, "batch_size": 4}
    generate_images(model, PROMPTS, tmp_path / "whole", **options)
    kills = 0
    for number in range(1, 40):
        folder = tmp_path / str(number)
        interrupted(number)
        try:
            generate_images(model, PROMPTS, folder, **options)
        except KeyboardInterrupt:
            kills += 1
        interrupted(-1)
        generate_images(model, PROMPTS, folder, **options)
        assert files(folder) == files(tmp_path / "whole")
        assert (folder / "manifest.csv").read_bytes() == (
            tmp_path / "whole/manifest.csv"
        ).read_bytes()
        if kills < number:
            break
    assert kills >= 6 + 2 + 2  # each image, each batch, settings and manifest


def test_a_batch_that_another_process_is_moving_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def raced(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(source).parent.suffix == ".batch":
            raise FileNotFoundError(source)

    monkeypatch.setattr(os, "replace", raced)
    images = {f"{n}.png": Image.new("RGB", (4, 4), (n, n, n)) for n in range(3)}
    image_files.publish_images(tmp_path, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]


def test_images_of_other_settings_are_refused_by_name(model: str, tmp_path: Path) -> None:
    generate_images(model, PROMPTS, tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match=r"other settings: steps is '2' there and '3' here; seed"):
        generate_images(model, PROMPTS, tmp_path / "out", seed=5, **changed(steps=3))
    with pytest.raises(ValueError, match=r"choice_temperature is .* '0.5' here"):
        generate_images(model, PROMPTS, tmp_path / "out", **changed(choice_temperature=0.5))
    with pytest.raises(ValueError, match=r"choice_temperature is of masked models; .* no tokens"):
        generate_images(model, PROMPTS, tmp_path / "new", **changed(choice_temperature=0.5))
    other = str(tiny.build_sd15(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=r"other settings: model is"):
        generate_images(other, PROMPTS, tmp_path / "out", **OPTIONS)
    same = str(tiny.build_sd15(tmp_path / "same"))  # saved elsewhere
    generate_images(same, PROMPTS, tmp_path / "out", **OPTIONS)


def test_images_of_another_text_length_are_refused(tmp_path: Path) -> None:
    """schnell's were once made with 512 tokens; a folder of them does not resume with 256."""
    schnell = str(tiny_flow.build_flux(tmp_path / "schnell", guidance=False))
    generate_images(schnell, ["a"], tmp_path / "out", **OPTIONS)
    settings = tmp_path / "out" / generation.SETTINGS
    told = json.loads(settings.read_text())
    assert told.pop("tokens") == "256"
    settings.write_text(json.dumps(told))
    with pytest.raises(
        ValueError, match="other settings: tokens is 'nothing' there and '256' here"
    ):
        generate_images(schnell, ["a"], tmp_path / "out", count=2, **OPTIONS)


@pytest.mark.parametrize(
    ("prompts", "options"), [([], {}), (["a"], {"count": 0}), (["a"], {"batch_size": -1})]
)
def test_nothing_to_do_is_refused(
    model: str, tmp_path: Path, prompts: list[str], options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="needed are a prompt, a count of at least 1"):
        generate_images(model, prompts, tmp_path, **options)


class Short:
    """A family that has memory for `room` images, and keeps how many it was asked for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.prompts = PromptTally()
        self.asked: list[int] = []

    def generate(self, prompts: list[str], *rest: Any, **options: Any) -> list[Image.Image]:
        self.asked.append(len(prompts))
        if len(prompts) > self.room:
            raise torch.OutOfMemoryError("short of memory")
        return [Image.new("RGB", (4, 4)) for _ in prompts]


@pytest.mark.parametrize(
    ("room", "asked"), [(10, [4, 8, 16, 8, 8, 2]), (3, [4, *[2] * 15]), (99, [4, 8, 16, 2])]
)
def test_batch_size_is_found(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, asked: list[int]
) -> None:
    family = Short(room)
    monkeypatch.setattr(models, "load", lambda *a, **k: family)
    size = generation.BatchSize
    monkeypatch.setattr(
        generation, "BatchSize", lambda wanted, **k: size(wanted, **{**k, "grows": True})
    )
    manifest = generate_images(model, ["a"], tmp_path, count=30, device="cpu")
    assert family.asked == asked and len(read_manifest(manifest, require_scores=False)) == 30


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [(2, "no memory for 2 images at once .* 0 finds one"), (0, "no memory for 1 .* smaller dtype")],
)
def test_no_memory_says_what_to_do(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, message: str
) -> None:
    monkeypatch.setattr(models, "load", lambda *a, **k: Short(0))
    with pytest.raises(RuntimeError, match=message):
        generate_images(model, ["a"], tmp_path, count=4, batch_size=batch_size, device="cpu")


class Listening(Short):
    """A family that keeps the prompts it was given."""

    def __init__(self) -> None:
        super().__init__(room=99)
        self.heard: list[str] = []

    def generate(self, prompts: list[str], *rest: Any, **options: Any) -> list[Image.Image]:
        self.heard += prompts
        return super().generate(prompts, *rest, **options)


def test_a_prefix_reaches_the_model_alone(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = Listening()
    monkeypatch.setattr(models, "load", lambda *a, **k: family)
    plain = generate_images(model, PROMPTS, tmp_path / "plain", **OPTIONS)
    marked = generate_images(model, PROMPTS, tmp_path / "marked", prefix="good: ", **OPTIONS)
    assert family.heard == [*PROMPTS, *(f"good: {prompt}" for prompt in PROMPTS)]
    # Named, and so seeded, by the prompt alone: images pair with those of other models.
    assert files(tmp_path / "plain").keys() == files(tmp_path / "marked").keys()
    rows = [read_manifest(path, require_scores=False).prompts() for path in (plain, marked)]
    assert rows == [PROMPTS, PROMPTS]
    with pytest.raises(ValueError, match="prefix is 'good: ' there and 'nothing' here"):
        generate_images(model, PROMPTS, tmp_path / "marked", **OPTIONS)
