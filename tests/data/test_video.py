"""Clips of video files, at a rate of one's own, and files that are none."""

from __future__ import annotations

import io
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tglo.data import video
from tglo.data.errors import ImageError
from tglo.data.video import Clip, Video, about, contact_sheet, read_clip, write_video

av = pytest.importorskip("av", reason="videos need PyAV")


def levels(frames: Any) -> list[int]:
    """Each frame's number, which is its red level in tens."""
    return [round(float(np.asarray(frame)[..., 0].mean()) / 10) for frame in frames]


def numbered(count: int, size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    return [Image.new("RGB", size, (10 * number, 128, 100)) for number in range(count)]


def file_of(frames: list[Image.Image], rate: float = 25.0) -> io.BytesIO:
    return io.BytesIO(write_video(Video(frames, rate)))


def encoded(
    frames: list[Image.Image], times: list[int], *, kind: str = "matroska", every: int = 12
) -> bytes:
    """Frames shown at these times, in ms; every: so many frames have a key frame."""
    output = io.BytesIO()
    with av.open(output, "w", format=kind) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = every
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return output.getvalue()


def test_what_is_written_is_read_again_and_always_the_same() -> None:
    frames = numbered(25)
    assert file_of(frames).getvalue() == file_of(frames).getvalue()
    assert about(file_of(frames)) == video.About(32, 48, 1.0)
    found = read_clip(file_of(frames), Clip(25, 25.0, "start"))
    assert levels(found.frames) == list(range(25)) and found.size == (32, 48)
    assert found.rate == 25.0


def test_a_small_video_is_the_same_whatever_was_in_memory() -> None:
    random = np.random.default_rng(1)
    pictures = random.integers(108, 148, (9, 4, 6, 3), dtype=np.uint8)
    frames = [Image.fromarray(p).resize((48, 32), Image.Resampling.BICUBIC) for p in pictures]
    found, memory = set(), []
    for _ in range(60):
        memory.append([np.full(s, s % 251, np.uint8) for s in random.integers(100, 30000, 20)])
        del memory[:-5]
        found.add(write_video(Video(frames, 16.0)))
    assert len(found) == 1


def test_a_clip_has_the_rate_that_is_asked_for() -> None:
    file = file_of(numbered(24))
    assert levels(read_clip(file, Clip(5, 6.25, "start")).frames) == [0, 4, 8, 12, 16]
    file.seek(0)
    assert levels(read_clip(file, Clip(4, 50.0, "start")).frames) == [0, 0, 1, 1]
    file.seek(0)
    # of 0.96 s the middle 0.64
    assert levels(read_clip(file, Clip(5, 6.25)).frames) == [4, 8, 12, 16, 20]


def test_a_variable_rate() -> None:
    data = encoded(numbered(5), [0, 40, 80, 1080, 1120])
    found = read_clip(io.BytesIO(data), Clip(5, 4.0, "start"))
    assert levels(found.frames) == [0, 2, 2, 2, 2]  # 0, 250, 500, 750 and 1,000 ms


def test_a_clip_of_a_long_file_is_found_by_a_seek(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten hours, a frame every 20 s: of 1,800 frames a few are decoded."""
    frames = [Image.new("RGB", (16, 16), (n % 25 * 10, 128, 100)) for n in range(1800)]
    data = encoded(frames, [20_000 * number for number in range(1800)])
    decoded = []
    whole = video._decoded

    def counted(*arguments: Any) -> Any:
        for seconds, frame in whole(*arguments):
            decoded.append(seconds)
            yield seconds, frame

    monkeypatch.setattr(video, "_decoded", counted)
    found = read_clip(io.BytesIO(data), Clip(3, 0.05))  # from 17,970.02 s of 35,980.04
    assert len(decoded) < 40 and min(decoded) > 17_000
    assert levels(found.frames) == [898 % 25, 899 % 25, 900 % 25]


def test_frames_are_changed_as_they_come() -> None:
    found = read_clip(file_of(numbered(5)), Clip(5, 25.0), lambda image: image.resize((8, 8)))
    assert found.size == (8, 8)


def test_odd_sides_are_made_even() -> None:
    found = read_clip(file_of(numbered(3, (33, 21))), Clip(3, 25.0))
    assert found.size == (22, 34) and levels(found.frames) == [0, 1, 2]


def test_a_contact_sheet_has_the_first_frame_and_the_last() -> None:
    sheet = contact_sheet(Video(numbered(25), 25.0), 4)
    assert sheet.size == (4 * 48, 32)
    assert levels([sheet.crop((48 * n, 0, 48 * n + 48, 32)) for n in range(4)]) == [0, 8, 16, 24]
    assert contact_sheet(Video(numbered(1), 25.0)).size == (48, 32)


def test_files_that_are_no_video() -> None:
    whole = file_of(numbered(25)).getvalue()
    sound = io.BytesIO()
    with av.open(sound, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = Clip(25, 25.0)
    for data, reason in (
        (whole[: len(whole) // 2], "cannot be decoded"),
        (b"", "cannot be decoded"),
        (b"<html>not found</html>", "cannot be decoded"),
        (sound.getvalue(), "it has no video, only audio"),
    ):
        with pytest.raises(ImageError, match=reason):
            read_clip(io.BytesIO(data), clip)
    with pytest.raises(
        ImageError, match=r"shorter than the clip of 26 frames at 25 a second \(1\.00 s\)"
    ):
        read_clip(io.BytesIO(whole), Clip(26, 25.0))


def test_a_torn_file_is_read_as_far_as_it_goes() -> None:
    data = encoded(numbered(25), [40 * number for number in range(25)], every=1)
    torn = io.BytesIO(data[: 3 * len(data) // 4])
    assert levels(read_clip(torn, Clip(10, 25.0, "start")).frames) == list(range(10))
    with pytest.raises(ImageError, match="shorter than|cannot be decoded"):
        read_clip(torn, Clip(25, 25.0, "start"))


def test_without_a_decoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_of(numbered(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tglo\[video\]'"):
        read_clip(file, Clip(2, 25.0))


def test_frames_of_several_sizes_are_no_video() -> None:
    with pytest.raises(ValueError, match="must be of one size"):
        file_of([*numbered(2), Image.new("RGB", (16, 16))])
