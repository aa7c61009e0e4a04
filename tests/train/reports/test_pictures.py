"""Validation images in trackers: read back from what TensorBoard, wandb and trackio wrote."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tglo.data.video import Video, write_video
from tglo.train import TrainConfig, train
from tglo.train.config import OutputConfig
from tglo.train.reports.trackers import Picture, Trackers

Make = Callable[..., TrainConfig]


def needs(name: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed (the extra track)")


def picture(folder: Path, number: int, side: int = 8) -> Picture:
    path = folder / f"{number:03d}.png"
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return Picture(path, f"prompt {number}")


def handed_over(folder: Path, tracker: str, caplog: pytest.LogCaptureFixture) -> list[Picture]:
    """Give a tracker a line, an image and a video, and an image that is gone by then; returns those there."""
    there, gone, sheet = (picture(folder, number) for number in range(3))
    gone.image.unlink()
    file = folder / "002.mp4"
    frames = [Image.new("RGB", (16, 16), (40 * n, 0, 0)) for n in range(5)]
    file.write_bytes(write_video(Video(frames, 8.0)))
    video = Picture(sheet.image, sheet.prompt, file)
    with caplog.at_level(logging.WARNING, "tglo"):
        both = Trackers(OutputConfig(folder=folder / "run", trackers=(tracker,)), {})  # type: ignore[arg-type]
        both.write(5, {"loss": 1.0})
        shown = {"validation/000": there, "validation/001": gone, "validation/002": video}
        both.write(5, shown)
        both.write(10, {"loss": 0.5})
        both.close(60)
    assert not caplog.messages
    return [there, video]


@needs("tensorboard")
def test_tensorboard_has_the_images_of_a_run(make_config: Make) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prompts = ["a temple", "a flower"]
    config = make_config(
        optimizer={"steps": 2},
        output={"trackers": ["tensorboard"], "export": False, "validation_prompts": prompts,
                "validation_every": 1, "validation_steps": 1},
    )  # fmt: skip
    folder = train(config).folder
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["validation/000", "validation/001"]
    shown = events.Images("validation/001")
    assert [image.step for image in shown] == [1, 2]
    written = folder / "samples" / "step-00000002" / "001.png"
    decoded = folder / "decoded.png"
    decoded.write_bytes(shown[-1].encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(decoded)), np.asarray(Image.open(written)))
    texts = events.Tensors("validation/000/prompt/text_summary")
    assert [text.tensor_proto.string_val[0] for text in texts] == [b"a temple"]
    assert [scalar.step for scalar in events.Scalars("loss")] == [1, 2]


@needs("tensorboard")
def test_an_image_that_is_gone_does_not_switch_a_tracker_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    handed_over(tmp_path, "tensorboard", caplog)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["validation/000", "validation/002"]  # a video's sheet
    assert [scalar.step for scalar in events.Scalars("loss")] == [5, 10]


@needs("wandb")
def test_wandb_has_the_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    there, video = handed_over(tmp_path, "wandb", caplog)
    (copy,) = (tmp_path / "run").rglob("media/images/validation/*.png")
    assert np.array_equal(np.asarray(Image.open(copy)), np.asarray(Image.open(there.image)))
    (copy,) = (tmp_path / "run").rglob("media/videos/validation/*.mp4")
    assert video.video is not None and copy.read_bytes() == video.video.read_bytes()


@needs("trackio")
def test_trackio_has_the_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    there, video = handed_over(tmp_path, "trackio", caplog)
    (copy,) = (tmp_path / "trackio").rglob("*.png")
    shown, original = (Image.open(path).convert("RGB") for path in (copy, there.image))
    assert np.array_equal(np.asarray(shown), np.asarray(original))
    (copy,) = (tmp_path / "trackio").rglob("*.mp4")
    assert video.video is not None and copy.read_bytes() == video.video.read_bytes()
