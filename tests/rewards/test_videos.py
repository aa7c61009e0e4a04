"""Manifests of videos: scorers of videos and of images beside each other, each row decoded once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rewards import published_qwen2vl
from tglo import cli
from tglo.data import decoding
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest
from tglo.data.video import Clip, Video, read_clip, write_video
from tglo.rewards import load_scorer, score_manifest
from tglo.rewards.frames import OfFrames
from tglo.rewards.partial import identity
from tglo.rewards.scoring import score_file, score_share
from tglo.rewards.video import choice_of
from tglo.rewards.videoreward import Network

pytest.importorskip("av", reason="videos need PyAV")

SCORERS = '''
import numpy as np
seen = []
def reds(frames):
    return [round(float(np.asarray(f)[..., 0].mean()) / 8, 2) for f in frames]
def ends(videos, prompts):
    """The last frame's red less the first one's."""
    seen.append([(len(v.frames), round(v.rate, 3)) for v in videos])
    return [r[-1] - r[0] for r in (reds(v.frames) for v in videos)]
ends.takes = "videos"
ends.fail_at = 0
def slow(videos, prompts):
    if slow.fail_at and len(seen) >= slow.fail_at:
        raise RuntimeError("out of luck")
    return ends(videos, prompts)
slow.takes, slow.frame_rate, slow.max_frames, slow.fail_at = "videos", 5, 8, 0
def red(images, prompts):
    return reds(images)
def picky(videos, prompts):
    return ends(videos, prompts)
picky.takes, picky.choose = "videos", lambda count, rate: [count - 1, 0]
'''


def ramp(first: int, count: int, rate: float = 10.0) -> Video:
    frames = [Image.new("RGB", (32, 48), (8 * (first + n), 90, 90)) for n in range(count)]
    return Video(frames, rate)


COUNTS = (11, 20, 1, 30, 2)


@pytest.fixture
def scorers(tmp_path, monkeypatch):
    """The module of SCORERS in the working folder, which has a manifest of videos of COUNTS frames."""
    (tmp_path / "video_scorers.py").write_text(SCORERS)
    lines = ["prompt,image"]
    for number, count in enumerate(COUNTS):
        (tmp_path / f"{number}.mp4").write_bytes(write_video(ramp(number % 2, count)))
        lines.append(f"ramp {number},{number}.mp4")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("tglo.rewards.partial.SAVE_SECONDS", 0.0)
    sys.modules.pop("video_scorers", None)
    import video_scorers

    yield video_scorers
    sys.modules.pop("video_scorers", None)


def columns(path: str | Path) -> dict[str, list[float]]:
    rows = read_manifest(path).rows
    return {name: [float(row.extra[name]) for row in rows] for name in rows[0].extra}


def test_scorers_of_videos_and_of_images_share_a_pass(scorers, monkeypatch, capsys):
    opened = []
    original = decoding._decoded

    def counted(container, stream, start):
        opened.append(start)
        return original(container, stream, start)

    monkeypatch.setattr(decoding, "_decoded", counted)
    names = ["ends", "slow", "red", "picky"]
    flags = [flag for name in names for flag in ("--scorer", f"video_scorers:{name}")]
    mixture = "video_scorers:ends=1,video_scorers:red=-2"
    assert cli.main(["score", "m.csv", *flags, "--mixture", mixture, "--frames", "3"]) == 0
    found = {name.removeprefix("video_scorers:"): v for name, v in columns("m-scored.csv").items()}
    assert found["ends"] == pytest.approx([10, 19, 0, 29, 1], abs=0.4)
    assert found["slow"] == pytest.approx([*found["ends"][:4], 0.0], abs=1e-9)  # sees one of two
    assert found["picky"] == pytest.approx([-score for score in found["ends"]], abs=1e-9)
    middle = [n % 2 + (count - 1) / 2 for n, count in enumerate(COUNTS)]
    assert found["red"] == pytest.approx(middle, abs=0.4)
    mixed = np.array(found["ends"]) - 2 * np.array(found["red"])
    assert read_manifest("m-scored.csv").scores() == pytest.approx(mixed)
    assert opened == [0.0] * 5  # each file once


def test_which_frames_are_given(scorers):
    score_manifest(read_manifest("m.csv", require_scores=False), scorers.ends, progress=False)
    assert scorers.seen == [[(11, 10.0), (20, 10.0), (1, 10.0), (30, 10.0), (2, 10.0)]]
    scorers.seen.clear()
    score_manifest(read_manifest("m.csv", require_scores=False), scorers.slow, progress=False)
    # Five a second, at most eight, and a rate by which they last as long as the video.
    assert scorers.seen == [[(6, 5.455), (8, 4.0), (1, 10.0), (8, 2.667), (1, 5.0)]]
    assert choice_of(scorers.ends)(1000, 25.0)[-1] == 999
    assert len(choice_of(scorers.ends)(864_000, 24.0)) == 64  # ten hours
    assert identity(scorers.slow) == "video_scorers:slow, frame_rate 5, max_frames 8"


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_it_goes_on_with_any_number_of_processes(scorers, world_size):
    whole = score_file(Path("m.csv"), "video_scorers:slow", Path("w.csv"), 2).read_bytes()
    scorers.seen.clear()
    scorers.slow.fail_at = 1
    where = {"device": "cpu", "world_size": world_size}
    with pytest.raises(RuntimeError, match="out of luck"):
        score_share(Path("m.csv"), "video_scorers:slow", Path("o.csv"), 2, device="cpu")
    assert len(scorers.seen) == 1
    scorers.slow.fail_at = 0
    for rank in reversed(range(world_size)):
        score_share(Path("m.csv"), "video_scorers:slow", Path("o.csv"), 2, rank=rank, **where)
    assert sum(map(len, scorers.seen)) == len(COUNTS) and Path("o.csv").read_bytes() == whole


def test_images_are_not_for_scorers_of_videos(scorers):
    Image.new("RGB", (8, 8)).save("i.png")
    with Path("m.csv").open("a") as file:
        file.write("a dot,i.png\n")
    with pytest.raises(
        ValueError, match=r"video_scorers:ends takes videos, and i\.png is an image"
    ):
        score_file(Path("m.csv"), ["video_scorers:red", "video_scorers:ends"])
    manifest = read_manifest("m.csv", require_scores=False)
    with pytest.raises(ValueError, match="the scorer score takes videos, and i.png"):
        score_manifest(manifest, scorers.ends, progress=False)
    assert not scorers.seen
    scored = score_manifest(manifest, scorers.red, frames=2, progress=False)  # both kinds
    assert scored.scores() == pytest.approx([5, 10.5, 0, 15.5, 0.5, 0], abs=0.4)


def test_folders_of_frames_have_a_rate(scorers):
    Path("f").mkdir()
    for number, frame in enumerate(ramp(0, 11).frames):
        frame.save(f"f/{number}.png")
    Path("m.csv").write_text("prompt,image,frame_rate\nslow,f,5\nfast,f,\n")
    with pytest.raises(ValueError, match=r"1 folders of frames, such as f, are of an unknown rate"):
        score_file(Path("m.csv"), "video_scorers:ends")
    with pytest.raises(ValueError, match=r"source_rate is 0; it must be from 0.01"):
        score_file(Path("m.csv"), "video_scorers:ends", source_rate=0)
    assert not scorers.seen
    flags = ["--scorer", "video_scorers:ends", "--source-rate", "20"]
    assert cli.main(["score", "m.csv", *flags]) == 0
    assert scorers.seen == [[(11, 5.0), (11, 20.0)]]
    score_file(Path("m.csv"), "video_scorers:red")  # frames alone need none


def test_a_scorer_of_frames_stays_as_it_is(scorers):
    manifest = read_manifest("m.csv", require_scores=False)
    worst = OfFrames(scorers.red, 2, "worst")
    scored = score_manifest(manifest, worst, frames=2, progress=False)
    assert scored.scores() == pytest.approx([0, 1, 0, 1, 0], abs=0.4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "frame_rate",
            0,
            "frame_rate of the scorer score is 0; it must be from 0.01 to 1000",
        ),
        ("frame_rate", "5", "frame_rate of the scorer score is '5'; it must be from 0.01"),
        ("max_frames", 0, "max_frames of the scorer score is 0; it must be at least 1"),
        ("choose", lambda count, rate: [], r"video_scorers:ends: of a video of .* the frames \[\]"),
        ("choose", lambda count, rate: [count], "numbered from 0 to 10"),
        ("choose", lambda count, rate: [-1], r"the frames \[-1\.0\] were chosen"),
    ],
)
def test_choices_that_cannot_be(scorers, key, value, message):
    setattr(scorers.ends, key, value)
    manifest = read_manifest("m.csv", require_scores=False).select([0])
    with pytest.raises(ValueError, match=message):
        score_manifest(manifest, scorers.ends, progress=False)


def test_the_scorer_in_the_docs(scorers, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    (code,) = [part.split("```")[0] for part in text.split("```python\n") if "def smooth" in part]
    module = type(sys)("my_module")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "my_module", module)
    score_file(Path("m.csv"), "my_module:smooth")
    found = read_manifest("m-scored.csv").scores()
    assert found[2] == 0 and (found[[0, 1, 3]] < 0).all()


def test_broken_files_are_rows_that_cannot_be_scored(scorers):
    data = Path("1.mp4").read_bytes()
    Path("1.mp4").write_bytes(data[: len(data) // 2])
    Path("3.mp4").write_bytes(b"<html>")
    with pytest.raises(ManifestError, match=r"2 of 5 .*1\.mp4: .*line 5: 3\.mp4: cannot be decod"):
        score_file(Path("m.csv"), "video_scorers:ends")
    score_file(Path("m.csv"), "video_scorers:ends", max_bad_fraction=0.5)
    assert len(read_manifest("m-scored.csv")) == 3


def test_videoreward_from_files_is_videoreward_of_all_frames(scorers, tmp_path, monkeypatch):
    """Only the frames that it sees are decoded, scaled while they are read, and the numbers are the same."""
    random = np.random.default_rng(0)
    videos = []
    for number, (count, rate, size) in enumerate([(23, 8.0, (60, 90)), (9, 25.0, (400, 300)),
                                                  (3, 2.0, (31, 46))]):  # fmt: skip
        still = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
        frames = [still.rotate(20 * n).resize(size, Image.Resampling.BICUBIC) for n in range(count)]
        Path(f"{number}.mp4").write_bytes(write_video(Video(frames, rate)))
        with Path(f"{number}.mp4").open("rb") as file:
            clip = Clip(count, rate, "start")
            videos.append(read_clip(file, clip))
    Path("m.csv").write_text("prompt,image\n" + "".join(f"turn {n},{n}.mp4\n" for n in range(3)))
    folder, _ = published_qwen2vl.videoreward_folder(tmp_path / "vr")
    names = ["videoreward", "videoreward_vq", "videoreward_mq", "videoreward_ta"]
    calls: list[int] = []
    whole = Network.hidden

    def counted(network, pixels, texts):
        calls.append(len(pixels))
        return whole(network, pixels, texts)

    monkeypatch.setattr(Network, "hidden", counted)
    score_file(Path("m.csv"), [f"{n}={folder}" for n in names], batch_size=1, device="cpu")
    assert calls == [1, 1, 1]  # once for the four scorers
    found = columns("m-scored.csv")
    for name in names:
        scorer = load_scorer(f"{name}={folder}", device="cpu")
        alone = [scorer([v], [f"turn {n}"])[0] for n, v in enumerate(videos)]
        assert found[name] == pytest.approx(alone, abs=1e-9)
    assert np.std(found["videoreward"]) > 0.01
    parts = np.sum([found[name] for name in names[1:]], 0)
    assert found["videoreward"] == pytest.approx(parts, abs=1e-5)
