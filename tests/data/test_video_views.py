from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from tests.data.test_video import encoded
from tglo.data import decoding
from tglo.data.errors import ImageError
from tglo.data.video import Video, write_video
from tglo.data.video_views import View, evenly, read_frames, read_views

av = pytest.importorskip("av", reason="videos need PyAV")


def numbered(count: int, rate: float) -> bytes:
    """A video whose frames have brightness n * 3 modulo 256."""
    frames = [Image.new("RGB", (32, 32), (n * 3 % 256,) * 3) for n in range(count)]
    return write_video(Video(frames, rate))


def number(image: Image.Image) -> float:
    return float(np.asarray(image).mean()) / 3


def chosen(*numbers: float) -> View:
    return View(lambda count, rate: numbers)


@pytest.mark.parametrize("rate", [8.0, 16.0, 24.0, 25.0, 30000 / 1001])
def test_a_frame_has_its_number(rate):
    every = View(lambda count, fps: range(count))
    found, some, one = read_views(
        io.BytesIO(numbered(40, rate)), [every, chosen(7, 7, 39, 0, 3.5), View(evenly(1))]
    )
    assert [round(number(frame)) for frame in found.frames] == list(range(40))
    assert found.rate == pytest.approx(rate, rel=1e-3)
    assert [round(number(frame)) for frame in some.frames] == [7, 7, 39, 0, 3]
    assert some.rate == pytest.approx(rate / 8, rel=1e-3)
    assert number(one.frames[0]) == pytest.approx(20, abs=0.4)


def test_each_view_has_its_own_change_of_its_own_frames():
    changed: list[Sequence[float]] = [[], []]

    def change(place: int, side: int) -> View:
        def small(image: Image.Image) -> Image.Image:
            changed[place].append(round(number(image)))
            return image.resize((side, side))

        return View(lambda count, rate: [place, 5], small)

    first, second = read_views(io.BytesIO(numbered(9, 8.0)), [change(0, 4), change(1, 6)])
    assert first.size == (4, 4) and second.size == (6, 6)
    assert changed == [[0, 5], [1, 5]]


def test_what_lies_between_is_skipped(monkeypatch):
    """A minute at 4 a second with a key frame every second: seeking finds the same frames as decoding all."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "1", "g": "4", "preset": "ultrafast"}
        for n in range(240):
            image = Image.new("RGB", (32, 32), (n,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    data.seek(0)
    decoded = []
    original = decoding._decoded

    def counted(container, stream, start):
        for entry in original(container, stream, start):
            decoded.append(entry[0])
            yield entry

    monkeypatch.setattr(decoding, "_decoded", counted)
    numbers = [0, 3, 57, 121, 122, 238, 239]
    (found,) = read_views(data, [chosen(*numbers)])
    assert [number(frame) * 3 for frame in found.frames] == pytest.approx(numbers, abs=1)
    assert len(decoded) < 40


def test_ten_hours_of_variable_rate() -> None:
    """A frame every 20 s: by time, so the frames are where they would be at the mean rate."""
    frames = [Image.new("RGB", (16, 16), (n % 80 * 3,) * 3) for n in range(1800)]
    data = encoded(frames, [20_000 * number for number in range(1800)])
    found = read_frames(io.BytesIO(data), 8)
    off = [round(number(frame)) - 1799 * n // 7 for n, frame in enumerate(found.frames)]
    assert {step % 80 for step in off} <= {79, 0, 1}


def test_an_end_that_is_late_is_the_last_frame_and_one_that_is_missing_an_error(monkeypatch):
    data = numbered(40, 10.0)
    for longer, message in ((0.9, None), (3.0, r"no frame at 6\.90 s, which is within the length")):
        monkeypatch.setattr(decoding, "_seconds", lambda *_, more=longer: 4.0 + more)
        if message is None:
            (found,) = read_views(io.BytesIO(data), [View(evenly(8))])
            assert number(found.frames[-1]) == pytest.approx(39, abs=0.4)
        else:
            with pytest.raises(ImageError, match=message):
                read_views(io.BytesIO(data), [View(evenly(2))])
    monkeypatch.setattr(decoding, "_seconds", lambda *_: None)
    with pytest.raises(ImageError, match="does not say how long it is"):
        read_views(io.BytesIO(data), [])


def test_frames_of_several_sizes_are_refused():
    sizes = iter([(8, 8), (8, 9)])
    view = View(lambda count, rate: [0, 1], lambda image: image.resize(next(sizes)))
    with pytest.raises(ImageError, match="its frames are of 2 sizes"):
        read_views(io.BytesIO(numbered(4, 8.0)), [view])
