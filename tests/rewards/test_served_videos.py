"""Videos scored behind a URL: the files are posted as they are."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rewards.test_served import example, no_pauses, send, serving  # noqa: F401
from tglo import cli
from tglo.data.decoding import opened
from tglo.data.errors import ManifestError
from tglo.data.manifest import read_manifest
from tglo.data.video import Video, write_video
from tglo.data.video_views import View, read_views
from tglo.rewards import load_scorer, score_manifest
from tglo.rewards import video as video_module
from tglo.rewards.posting import ServerError
from tglo.rewards.video import Inputs

pytest.importorskip("av", reason="videos need PyAV")


def blink(count: int, bright: int) -> Video:
    frames = [Image.new("RGB", (32, 32), (bright * (n % 2),) * 3) for n in range(count)]
    return Video(frames, 8.0)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = ["prompt,image"]
    for number in range(5):
        name = f"{number}.{'webm' if number == 2 else 'mp4'}"
        (tmp_path / name).write_bytes(write_video(blink(4 + number, 50 * number)))
        lines.append(f"blink {number},{name}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "m.csv"


def sizes(asked, handler):
    """The number of a file's bytes, in a score."""
    assert asked["format"] == "tglo.scorer.1" and "images" not in asked
    return {"scores": [float(len(base64.b64decode(text))) for text in asked["videos"]]}


@pytest.mark.parametrize("most", [1, 2, 5])
def test_files_arrive_as_they_are_and_in_order(manifest, most):
    seen = []

    def answer(asked, handler):
        seen.append((len(asked["videos"]), asked["prompts"], asked["types"], len(asked["ids"])))
        return sizes(asked, handler)

    rows = read_manifest(manifest, require_scores=False)
    with serving(answer) as url:
        scorer = load_scorer(f"{url},videos={most}")
        scored = score_manifest(rows, scorer, progress=False)
    lengths = [(manifest.parent / row.image).stat().st_size for row in rows]
    assert scored.scores().tolist() == lengths and len(set(lengths)) == 5
    assert max(count for count, *_ in seen) == most and sum(count for count, *_ in seen) == 5
    kinds = {p: k for _, prompts, types, _ in seen for p, k in zip(prompts, types, strict=True)}
    assert kinds["blink 2"] == "video/webm" and kinds["blink 3"] == "video/mp4"
    assert scorer.identity.endswith("/score, of videos") and scorer.takes == "videos"


def test_beside_scorers_of_images_and_what_is_no_video(manifest):
    (manifest.parent / "1.mp4").write_bytes(b"")
    (manifest.parent / "3.mp4").write_bytes(b"<html>" * 99)
    flags = ["--scorer", "ink", "--max-bad-fraction", "0.4", "--frames", "2"]
    with serving(sizes) as url:
        command = ["score", str(manifest), "--scorer", f"size={url},videos=1", *flags]
        assert cli.main(command) == 0
    rows = read_manifest(manifest.with_name("m-scored.csv")).rows
    assert [row.image for row in rows] == ["0.mp4", "2.webm", "4.mp4"]
    for row in rows:
        assert row.score == (manifest.parent / row.image).stat().st_size
        assert float(row.extra["ink"]) > 0


def test_videos_of_frames_are_encoded(manifest):
    def answer(asked, handler):
        files = [io.BytesIO(base64.b64decode(text)) for text in asked["videos"]]
        every = View(lambda count, rate: range(count))
        return {"scores": [float(len(read_views(f, [every])[0].frames)) for f in files]}

    with serving(answer) as url:
        scorer = load_scorer(f"{url},videos=2")
        assert scorer([blink(3, 90), blink(7, 9)], ["a", "b"]).tolist() == [3, 7]
        with pytest.raises(ValueError, match="1 videos but 2 prompts"):
            scorer([blink(3, 9)], ["a", "b"])
        with (manifest.parent / "4.mp4").open("rb") as file:  # as of a name that is no video file's
            (found,) = Inputs([scorer], 2)(file, "folder")
        assert found.kind == "video/mp4" and scorer([found], ["a"]).tolist() == [8]


def test_folders_of_frames_are_encoded_whatever_their_names(tmp_path, monkeypatch):
    for name, count in (("plain", 3), ("like.mp4", 7)):
        (tmp_path / name).mkdir()
        for number, frame in enumerate(blink(count, 90).frames):
            frame.save(tmp_path / name / f"{number}.png")
    (tmp_path / "m.csv").write_text("prompt,image,frame_rate\na,plain,4\nb,like.mp4,4\n")
    rows = read_manifest(tmp_path / "m.csv", require_scores=False)
    seen = []

    def answer(asked, handler):
        for text in asked["videos"]:
            with opened(io.BytesIO(base64.b64decode(text))) as source:
                seen.append((len(list(source.decoded(0.0))), source.rate))
        return {"scores": [1.0] * len(asked["videos"])}

    with serving(answer) as url:
        scorer = load_scorer(f"{url},videos=1,requests=1")
        score_manifest(rows, scorer, progress=False)
        assert seen == [(3, 4.0), (7, 4.0)]
        monkeypatch.setattr(video_module, "MOST_ENCODED", 6)  # none is cut short
        with pytest.raises(ManifestError, match=r"like\.mp4: it has 7 frames, and at most 6 are"):
            score_manifest(rows, scorer, progress=False)


def test_what_is_too_large_is_set_aside(manifest, monkeypatch):
    monkeypatch.setattr(video_module, "MOST_BYTES", 1000)
    rows = read_manifest(manifest, require_scores=False)
    with (
        serving(sizes) as url,
        pytest.raises(ManifestError, match="it has more than the 1000 bytes that are sent"),
    ):
        score_manifest(rows, load_scorer(f"{url},videos=1"), progress=False)


def test_what_is_wrong_is_said_of_videos(manifest):
    rows = read_manifest(manifest, require_scores=False)
    with (
        serving(lambda *_: {"scores": []}) as url,
        pytest.raises(ServerError, match="gave 0 scores for 2 videos"),
    ):
        score_manifest(rows, load_scorer(f"{url},videos=2"), progress=False)
    with pytest.raises(ValueError, match="has images and videos; leave the one it does not"):
        load_scorer("http://h/a,images=2,videos=2")
    with pytest.raises(ValueError, match="videos is 0; it must be"):
        load_scorer("http://h/a,videos=0")


def test_the_example_scores_videos(manifest, capsys):
    with example() as (_, url):
        command = ["score", str(manifest), "--scorer", f"steady={url},videos=1"]
        assert cli.main(command) == 0, capsys.readouterr().err
    found = read_manifest(manifest.with_name("m-scored.csv")).scores()
    assert found == pytest.approx(1 - np.arange(5) * 50 / 255, abs=0.02)
