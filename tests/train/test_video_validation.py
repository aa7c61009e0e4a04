"""Videos sampled on the way of a training, and in a sweep, of a size and length of their own."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import tiny_video
from tglo.cache.make import build
from tglo.data.video import about
from tglo.data.video_views import read_frames
from tglo.settings import ClipOptions, SamplingOptions
from tglo.sweep import sampling
from tglo.sweep.sampling import Sampling, sample_scores
from tglo.train import train
from tglo.train.config import TrainConfig
from tglo.train.config_files import parse_config

pytest.importorskip("av", reason="videos need PyAV")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two steps of a LoRA of Wan, with validation after each."""
    root = tmp_path_factory.mktemp("validation")
    model = tiny_video.build_wan(root / "wan")
    scored = tiny_video.scored_videos(root / "data")
    clips = ClipOptions((9,), 16.0)
    build(str(model), scored, root / "cache", resolution=32, device="cpu", clips=clips)
    return parse_config(
        {
            "model": {"path": str(model), "train": "lora"},
            "data": {"manifest": str(scored), "cache": str(root / "cache")},
            "objective": {"temperature": 0.1, "reference": "adapter-off"},
            "optimizer": {"steps": 2, "micro_batch": 2, "learning_rate": 1e-2},
            "engine": {"device": "cpu", "kind": "plain"},
            "output": {
                "folder": str(root / "run"),
                "progress": False,
                "validation_prompts": ["a bar", "a flower"],
                "validation_every": 1,
                "validation_steps": 2,
                "validation_height": 32,
                "validation_width": 48,
                "validation_frames": 13,
            },
        }
    )


def test_validation_writes_videos_of_the_size_that_is_asked_for(config: TrainConfig) -> None:
    samples = train(config).folder / "samples"
    for step in ("step-00000001", "step-00000002"):
        files = sorted(path.name for path in (samples / step).iterdir())
        assert files == ["000.mp4", "000.png", "001.mp4", "001.png"]
    data = io.BytesIO((samples / step / "000.mp4").read_bytes())
    found = about(data)
    assert (found.height, found.width) == (32, 48) and found.seconds == pytest.approx(13 / 16)
    data.seek(0)
    assert len(read_frames(data, 13).frames) == 13
    assert Image.open(samples / step / "000.png").size == (8 * 48, 32)
    both = [(samples / s / "000.mp4").read_bytes() for s in ("step-00000001", step)]
    assert both[0] != both[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"validation_frames": 12}, "frames is 12; .* multiple of 4 .* 13 is the nearest"),
        ({"validation_frames": 0}, r"output\.validation_frames is 0; it must be"),
        ({"validation_height": 40}, "height 40 and width 48 must be multiples of 16 pixels"),
        ({"validation_width": 4}, r"output\.validation_width is 4; it must be from 8"),
    ],
)
def test_what_cannot_be_sampled_is_told_before_training(
    config: TrainConfig, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    output = replace(config.output, folder=tmp_path / "run", **changed)
    with pytest.raises(ValueError, match=message):
        train(replace(config, output=output))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_sweeps_videos_are_sampled_and_scored(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("a bar\na flower\n")
    options = SamplingOptions(1, 1.0, height=32, width=32, frames=5)
    settings = Sampling(tmp_path / "prompts.txt", "ink", 2, options, device="cpu")
    settings.check()
    batches: list[int] = []
    score = sampling.score_file

    def watched(manifest: Path, scorer: str, output: Path, batch: int) -> Path:
        batches.append(batch)
        return score(manifest, scorer, output, batch)

    monkeypatch.setattr(sampling, "score_file", watched)
    found = sample_scores(config.model.path, settings, tmp_path / "samples")
    assert found["count"] == 4 and 0 < found["mean"] < 1
    assert batches == [sampling.VIDEOS_AT_ONCE]
