"""Plans of video models: clips of any length, and sizes that are not square."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny_video
from tglo import models
from tglo.models.execution.checkpointing import set_mode
from tglo.models.registry import skeleton_of
from tglo.plan.options import CHECKPOINTING, Checkpointing, Options
from tglo.plan.planner import plan
from tglo.plan.profile import Counter, measure
from tglo.plan.sample import Sample, sample_of
from tglo.plan.text import as_json, command, report


@pytest.mark.parametrize(
    ("model", "asked", "expected"),
    [
        ("wan21-1.3b", {}, Sample(480, 832, 81, 32_760, 2_096_640)),
        ("wan21-14b", {"height": 720, "width": 1280}, Sample(720, 1280, 81, 75_600, 4_838_400)),
        ("wan21-1.3b", {"resolution": 624, "frames": 49}, Sample(624, 624, 49, 19_773, 1_265_472)),
        ("wan22-5b", {"frames": 121}, Sample(704, 1280, 121, 27_280, 5_237_760)),
        ("ltx-2b", {}, Sample(512, 704, 161, 7_392, 946_176)),
        ("ltx-2b", {"width": 512, "frames": 1}, Sample(512, 512, 1, 256, 32_768)),
        ("flux-dev", {"height": 768, "width": 1344}, Sample(768, 1344, None, 4_032, 258_048)),
        ("sdxl", {}, Sample(1024, 1024, None, None, 65_536)),
    ],
)
def test_a_sample_is_what_the_model_makes_of_it(
    model: str, asked: dict[str, int], expected: Sample
) -> None:
    assert sample_of(model, skeleton_of(model), **asked) == expected


def test_a_sample_says_what_it_is() -> None:
    clip = sample_of("wan21-1.3b", skeleton_of("wan21-1.3b"))
    assert str(clip) == ("81 frames of 480 x 832 pixels: 32,760 tokens, 2,096,640 latent elements")
    image = sample_of("sdxl", skeleton_of("sdxl"), height=768, width=1344)
    assert str(image) == "768 x 1344 pixels: 64,512 latent elements"


@pytest.fixture(scope="module", params=["wan", "wan22-5b", "ltx"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("plan") / request.param
    if request.param == "ltx":
        return tiny_video.build_ltx(path)
    return tiny_video.build_wan(path, expand=request.param == "wan22-5b")


def test_a_folder_of_a_video_model_is_planned_for(folder: Path) -> None:
    options = Options(model=str(folder), train="lora", height=32, width=64, frames=13)
    found = plan(options)
    assert found.profile.sample.frames == 13 and found.profile.sample.width == 64
    assert "13 frames of 32 x 64 pixels" in report(found) and "MB a clip" in report(found)
    assert "--height 32 --width 64 --frames 13" in command(options)
    assert as_json(found)["profile"]["sample"]["elements"] == found.profile.sample.elements
    longer = plan(replace(options, frames=25)).profile
    for mode in CHECKPOINTING:
        assert longer.cost[mode].held > found.profile.cost[mode].held
        assert longer.cost[mode].flops > found.profile.cost[mode].flops


@pytest.mark.parametrize("mode", CHECKPOINTING)
def test_what_the_planner_counts_is_what_training_keeps(mode: Checkpointing, folder: Path) -> None:
    """Bytes of a step's forward and backward on real numbers, beside those counted on tensors without data."""
    skeleton = skeleton_of(str(folder))
    empty = skeleton.build(torch.float32)
    arguments = skeleton.inputs(empty, 2, 32, 64, 25)
    family = models.load(folder, encoders=False)
    family.denoiser.train().requires_grad_(True)
    draw = family.example(2, 32, 64, 25)
    for denoiser in (empty, family.denoiser):
        set_mode(denoiser, mode)
    _, counted = measure(empty, lambda: empty(**arguments)[0], 2)
    with Counter(family.denoiser) as count:
        answer = family.predict(family.denoiser, draw)
        held = count.now / 2
        answer.square().mean().backward()
    assert held == pytest.approx(counted.held, rel=0.05)
    assert count.peak / 2 == pytest.approx(counted.peak, rel=0.03)
