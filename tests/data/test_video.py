"""Clips of video files, at a rate of one's own, and files that are none."""

from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tglo.data import decoding, video
from tglo.data.errors import ImageError
from tglo.data.images import decode_image
from tglo.data.video import Clip, Video, about, contact_sheet, read_clip, write_video
from tglo.data.video_views import read_frames

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
    whole = decoding._decoded

    def counted(*arguments: Any) -> Any:
        for seconds, frame in whole(*arguments):
            decoded.append(seconds)
            yield seconds, frame

    monkeypatch.setattr(decoding, "_decoded", counted)
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


def sound() -> bytes:
    output = io.BytesIO()
    with av.open(output, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return output.getvalue()


WHOLE = file_of(numbered(25)).getvalue()
BROKEN: dict[str, tuple[bytes, str]] = {
    "cut at its start": (
        WHOLE[len(WHOLE) // 2 :],
        "cannot be decoded: Invalid data.*copy it again",
    ),
    "cut in its middle": (WHOLE[:600] + WHOLE[-600:], "cannot be decoded: Invalid data.*copy it"),
    "cut at its end": (WHOLE[: len(WHOLE) // 2], "cannot be decoded: Invalid data.*copy it again"),
    "cut in its index": (
        WHOLE[:-600],
        "it is torn.*no decoder|only data: it holds none, or is torn",
    ),
    "header only": (WHOLE[:40], "cannot be decoded: Invalid data"),
    "empty": (b"", "it is empty, a file of 0 bytes"),
    "a page": (b"<html>not found</html>", "cannot be decoded: Invalid data.*if it is a video"),
    "sound": (sound(), "it has no video, only audio"),
    "a codec that is unknown": (WHOLE.replace(b"avc1", b"xyz1"), "no decoder for it.*H.264"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize(
    "read", [lambda file: read_clip(file, Clip(9, 25.0)), lambda file: read_frames(file, 4)]
)
def test_files_that_are_no_video(fault: str, read: Any) -> None:
    data, reason = BROKEN[fault]
    with pytest.raises(ImageError, match=reason) as refused:
        read(io.BytesIO(data))
    assert "Errno" not in str(refused.value)


def test_a_video_that_is_shorter_than_the_clip() -> None:
    with pytest.raises(
        ImageError, match=r"shorter than the clip of 26 frames at 25 a second \(1\.00 s\)"
    ):
        read_clip(io.BytesIO(WHOLE), Clip(26, 25.0))
    one = file_of(numbered(1))
    with pytest.raises(ImageError, match="1 were found; ask for fewer"):
        read_clip(one, Clip(9, 25.0))
    assert len(read_clip(one, Clip(1, 25.0)).frames) == len(read_frames(one, 8).frames) == 1


def written(
    frames: list[Any],
    codec: str,
    pixels: str,
    *,
    kind: str = "matroska",
    first: int = 0,
    **stream: Any,
) -> io.BytesIO:
    """Frames of 16 a second; first: the first one's number. stream: attributes; rotation in degrees."""
    output = io.BytesIO()
    options = {"avoid_negative_ts": "disabled"} if first < 0 else {}
    with av.open(output, "w", format=kind, options=options) as container:
        track = container.add_stream(codec, rate=16)
        track.width, track.height, track.pix_fmt = *frames[0].size, pixels
        if "rotation" in stream:
            track.set_display_rotation(stream["rotation"])
        if "shape" in stream:
            track.codec_context.sample_aspect_ratio = stream["shape"]
        for number, image in enumerate(frames, first):
            kept = "rgba" if image.mode == "RGBA" else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format=kept)
            frame.pts, frame.time_base = number, Fraction(1, 16)
            container.mux(track.encode(frame.reformat(format=pixels)))
        container.mux(track.encode())
    return output


@pytest.mark.parametrize(
    ("codec", "pixels", "kind"),
    [
        ("ffv1", "yuv420p10le", "matroska"),
        ("ffv1", "yuv444p", "matroska"),
        ("libvpx-vp9", "yuv420p", "webm"),
        ("mpeg4", "yuv420p", "avi"),
        ("png", "rgb24", "mov"),
    ],
)
def test_depths_codecs_and_odd_sides(codec: str, pixels: str, kind: str) -> None:
    found = read_clip(written(numbered(9, (33, 21)), codec, pixels, kind=kind), Clip(9, 16.0))
    assert levels(found.frames) == list(range(9)) and found.size == (21, 33)


def test_grey_is_grey_in_all_channels() -> None:
    pictures = [Image.new("RGB", (16, 16), (10 * n,) * 3) for n in range(9)]
    frame = read_clip(written(pictures, "ffv1", "gray"), Clip(9, 16.0)).frames[5]
    assert frame.mode == "RGB" and np.asarray(frame).std() == 0 and levels([frame]) == [5]


def test_what_is_transparent_is_white_as_in_images() -> None:
    pictures = [Image.new("RGBA", (16, 16), (10 * n, 0, 0, 255 * (n % 2))) for n in range(9)]
    found = read_clip(written(pictures, "qtrle", "argb", kind="mov"), Clip(9, 16.0))
    assert levels(found.frames) == [26, 1, 26, 3, 26, 5, 26, 7, 26]


@pytest.mark.parametrize("first", [-8, 0, 40])
def test_times_may_start_anywhere(first: int) -> None:
    file = written(numbered(20), "ffv1", "yuv444p", first=first)
    assert levels(read_clip(file, Clip(20, 16.0, "start")).frames) == list(range(20))
    assert levels(read_clip(file, Clip(10, 16.0)).frames) == list(range(5, 15))


def test_an_edit_list_is_kept_to() -> None:
    """What a player does not show, since it lies before the file's start, is not read."""
    file = written(numbered(20), "libx264", "yuv420p", kind="mp4", first=-8)
    assert levels(read_clip(file, Clip(12, 16.0)).frames) == list(range(8, 20))


def test_pixels_that_are_not_square_are_made_square() -> None:
    shape = Fraction(2, 1)
    file = written(numbered(9, (24, 32)), "libx264", "yuv420p", kind="mp4", shape=shape)
    assert about(file).width == 48 and read_clip(file, Clip(9, 16.0)).size == (32, 48)


def test_a_turned_video_is_upright() -> None:
    """A camera held upright writes a landscape and how it is turned."""
    picture = Image.new("RGB", (48, 32))
    picture.paste((250, 0, 0), (0, 0, 16, 16))
    found = read_clip(
        written([picture] * 9, "mpeg4", "yuv420p", kind="mp4", rotation=-90), Clip(9, 16.0)
    )
    red = np.asarray(found.frames[0])[..., 0]
    assert found.size == (48, 32) and red[:12, -12:].min() > 200 and red[:12, :12].max() < 60


def test_more_pixels_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 48 * 32 - 1)
    for read in (lambda file: read_clip(file, Clip(9, 25.0)), lambda file: read_frames(file, 4)):
        with pytest.raises(ImageError, match="48 x 32 pixels are above the cap of 1535"):
            read(io.BytesIO(WHOLE))


def test_frames_that_grow_on_the_way_meet_the_cap_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_shown_size", lambda stream: (1, 1))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(ImageError, match="48 x 32 pixels are above the cap"):
        read_clip(io.BytesIO(WHOLE), Clip(9, 25.0))


@pytest.mark.parametrize(
    ("kind", "animated"),
    [
        ("JPEG", False),
        *((kind, moves) for kind in ("PNG", "GIF", "WEBP") for moves in (False, True)),
    ],
)
def test_an_image_is_one_frame_and_an_animation_its_first(kind: str, animated: bool) -> None:
    first, *rest = numbered(3, (32, 32))
    file = io.BytesIO()
    more = {"save_all": True, "append_images": rest, "duration": 50} if animated else {}
    first.save(file, kind, **more)
    assert about(file) == video.About(32, 32, 0.0)
    assert (
        levels(read_clip(file, Clip(1, 16.0)).frames) == levels(read_frames(file, 8).frames) == [0]
    )
    with pytest.raises(ImageError, match=r"an image or an animation.*clip has 9.*MP4.*--frames"):
        read_clip(file, Clip(9, 16.0))


@pytest.mark.parametrize("kind", ["mp4", "mov", "matroska", "webm", "avi"])
def test_a_video_is_told_from_an_image(kind: str) -> None:
    codec = "libvpx-vp9" if kind == "webm" else "mpeg4"
    with pytest.raises(
        ImageError, match=r"it is a video \(.*model of videos.*has to end in one of"
    ):
        decode_image(written(numbered(3), codec, "yuv420p", kind=kind).getvalue())


def test_memory_is_of_the_clip_however_long_the_file() -> None:
    """Ten hours with one key frame, 120 frames of 1280 x 720 (332 MB of pixels), in a process of its own."""
    frame = Image.new("RGB", (1280, 720), (90, 128, 100))
    data = encoded([frame] * 120, [300_000 * number for number in range(120)], every=120)
    program = """
import io, resource, sys
from tglo.data.video import Clip, read_clip
data = sys.stdin.buffer.read()
read_clip(io.BytesIO(data), Clip(1, 1.0, "start"))  # what libraries take
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = lambda image: image.resize((64, 32))
assert len(read_clip(io.BytesIO(data), Clip(9, 1 / 300), small).frames) == 9
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    ran = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    assert float(ran.stdout) < 60  # MiB


def test_a_torn_file_is_read_as_far_as_it_goes() -> None:
    data = encoded(numbered(25), [40 * number for number in range(25)], every=1)
    torn = io.BytesIO(data[: 3 * len(data) // 4])
    assert levels(read_clip(torn, Clip(10, 25.0, "start")).frames) == list(range(10))
    with pytest.raises(ImageError, match="shorter than|cannot be decoded"):
        read_clip(torn, Clip(25, 25.0, "start"))


def test_without_a_decoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_of(numbered(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[video\]"'):
        read_clip(file, Clip(2, 25.0))


def test_frames_of_several_sizes_are_no_video() -> None:
    with pytest.raises(ValueError, match="must be of one size"):
        file_of([*numbered(2), Image.new("RGB", (16, 16))])
