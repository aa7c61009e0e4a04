"""The world of moving digits, its rewards, and the small Wan pipeline that is pre-trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import pad

from examples.moving_digits import clips, rewards
from examples.pretraining import moving, wan
from tglo import models
from tglo.data.video import Video
from tglo.demo import digits
from tglo.rewards.frames import OfFrames

WORLD = Path(clips.__file__).parent


def scene(pen: float = 2.5, travel: float = 6.0, prompt: int = 7) -> clips.Scene:
    return clips.Scene(prompt, 0, pen, travel, (0.0, 0.0))


def video(of: clips.Scene) -> Video:
    return Video(digits.to_images(clips.draw(of)), clips.RATE)


def test_the_prompts_are_the_worlds() -> None:
    assert (WORLD / "prompts.txt").read_text().splitlines() == list(clips.PROMPTS)


def test_a_digit_goes_as_far_as_its_scene_says() -> None:
    for prompt in (6, 7):  # a three, left and right
        of = scene(travel=6.0, prompt=prompt)
        said = [clips.PROMPTS[prompt]]
        assert rewards.motion([video(of)], said)[0] == pytest.approx(6.0, abs=0.3)
        other = [clips.PROMPTS[13 - prompt]]
        assert rewards.motion([video(of)], other)[0] == pytest.approx(-6.0, abs=0.3)


def test_bold_digits_score_high_and_wrong_ones_low() -> None:
    score = OfFrames(rewards.boldness, 8)
    thin, bold = (video(scene(pen=pen)) for pen in (1.5, 3.5))
    said, other = clips.PROMPTS[7], clips.PROMPTS[1]
    found = score([thin, bold, bold], [said, said, other])
    assert found[1] > found[0] + 1.0 and found[2] < 0.5
    blank = Image.new("RGB", (clips.SIZE, clips.SIZE), "white")
    assert rewards.boldness([blank], [said])[0] == 0.0
    with pytest.raises(ValueError, match="'a cat' is not of this world"):
        rewards.boldness([blank], ["a cat"])


def test_one_zero_stands_for_many() -> None:
    """Pre-training shows the transformer a prompt and one zero, and the pipeline fills up with zeros to 512."""
    torch.manual_seed(0)
    transformer: Any = moving.build_pipeline().transformer
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(std=0.3)
        clip, timesteps = torch.randn(2, wan.CHANNELS, 3, 4, 4), torch.tensor([300.0, 700.0])
        text = torch.randn(2, 5, 32)
        expected = transformer(clip, timesteps, pad(text, (0, 0, 0, wan.CONTEXT - 5))).sample
        for block in transformer.blocks:
            block.attn2.set_processor(wan.ManyZeros(wan.CONTEXT - 5))
        found = transformer(clip, timesteps, pad(text, (0, 0, 0, 1))).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_folder_is_small_and_what_pretraining_builds() -> None:
    files = [path for path in moving.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1.6e6
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    loaded, built = models.load(str(moving.FOLDER)), moving.build_pipeline()
    for mine, other in ((loaded.denoiser, built.transformer), (loaded.vae, built.vae)):
        assert {k: v.shape for k, v in mine.state_dict().items()} == {
            k: v.shape for k, v in other.state_dict().items()
        }


def test_sampled_digits_move_as_they_are_asked_to() -> None:
    prompts = list(clips.PROMPTS)
    made = models.load(str(moving.FOLDER)).generate(
        prompts, range(len(prompts)), moving.SAMPLING, batch_size=20
    )
    assert np.mean(rewards.motion(made, prompts) > 1.0) > 0.8
    assert OfFrames(rewards.legibility, 3)(made, prompts).mean() > 0.5
    assert OfFrames(rewards.boldness, 3)(made, prompts).std() > 0.3
