"""Which clip of which video is in a cache, and when it is encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from torch import Tensor

from tests.data.test_frames import frames, levels
from tglo.cache.build import CacheReport, build_cache
from tglo.cache.clips import prepare_clip
from tglo.cache.encode import PreparedImage
from tglo.cache.format import Quarantined
from tglo.cache.latents import LatentCache
from tglo.data.errors import CacheError
from tglo.data.manifest import Manifest, read_manifest
from tglo.data.video import Video, write_video
from tglo.settings import ClipOptions

pytest.importorskip("av", reason="videos need PyAV")

CLIPS = ClipOptions((1, 9), 16.0)
BUCKETS = [(count, *size) for count in (1, 9) for size in ((32, 64), (48, 48), (64, 32))]


class Encoder:
    """Latents that are the pixels, every eighth."""

    bucket_step = 16

    def fingerprint(self) -> dict[str, str]:
        return {"encoder": "pixels"}

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        mean = pixels[..., ::8, ::8]
        return {"mean": mean, "std": 0 * mean}

    def texts(self, batches: Sequence[Sequence[str]]) -> object:
        import torch

        return ({"prompt_embeds": torch.zeros(len(batch), 2, 3)} for batch in batches)


def manifest(folder: Path, *lines: str) -> Manifest:
    (folder / "m.csv").write_text("\n".join(["prompt,image,frame_rate", *lines]) + "\n")
    return read_manifest(folder / "m.csv", require_scores=False)


def prepared(rows: Manifest, clips: ClipOptions = CLIPS) -> list[PreparedImage | Quarantined]:
    return [prepare_clip(rows, row, BUCKETS, clips) for row in rows]


def cached(
    rows: Manifest, folder: Path, clips: ClipOptions = CLIPS, **options: float
) -> CacheReport:
    return build_cache(
        rows, folder, Encoder(), resolution=48, clips=clips, shard_size=1, progress=False, **options
    )


def test_images_are_videos_of_one_frame_where_clips_may_have_one(tmp_path: Path) -> None:
    frames(tmp_path / "a", 12)
    Image.new("RGB", (48, 32), (70, 0, 0)).save(tmp_path / "still.png")
    rows = manifest(tmp_path, "a,a,", "b,still.png,")
    buckets = [entry.bucket for entry in prepared(rows) if isinstance(entry, PreparedImage)]
    assert buckets == [(9, 32, 64), (1, 32, 64)]
    clip, image = prepared(rows, ClipOptions((9,), 16.0))
    assert isinstance(clip, PreparedImage) and isinstance(image, Quarantined)
    assert "it is an image or an animation" in image.cause and "--frames" in image.cause


def test_a_turned_video_is_in_the_bucket_of_what_is_shown(tmp_path: Path) -> None:
    from tests.data.test_video import written

    picture = Image.new("RGB", (64, 32))
    file = written([picture] * 9, "mpeg4", "yuv420p", kind="mp4", rotation=-90)
    (tmp_path / "up.mp4").write_bytes(file.getvalue())
    (entry,) = prepared(manifest(tmp_path, "a,up.mp4,"))
    assert isinstance(entry, PreparedImage)
    assert entry.bucket == (9, 64, 32) and entry.original == (64, 32)


@pytest.mark.parametrize(
    ("cell", "source_rate", "expected"),
    [
        ("", None, [0, 1, 2, 3, 4, 5, 6, 7, 8]),  # as fast as the clip
        ("", 32.0, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        ("8", 32.0, [0, 0, 1, 1, 2, 2, 3, 3, 4]),
    ],
)
def test_a_folders_rate_is_the_rows_or_the_flags_or_the_clips(
    cell: str, source_rate: float | None, expected: list[int], tmp_path: Path
) -> None:
    frames(tmp_path / "a", 20)
    clips = ClipOptions((9,), 16.0, "start", source_rate)
    (entry,) = prepared(manifest(tmp_path, f"a,a,{cell}"), clips)
    assert isinstance(entry, PreparedImage) and not isinstance(entry.image, Image.Image)
    assert levels(entry.image) == expected


def test_folders_are_cached_and_encoded_again_when_they_change(tmp_path: Path) -> None:
    for name in "ab":
        frames(tmp_path / name, 12)
    cache = tmp_path / "cache"
    rows = manifest(tmp_path, "p,a,", "p,b,")
    assert cached(rows, cache).encoded == 2 and cached(rows, cache).encoded == 0
    latents = [LatentCache(cache).batch([row.sample_id])["mean"] for row in rows]
    assert latents[0].shape == (1, 3, 9, 4, 8) and latents[0].equal(latents[1])
    frames(tmp_path / "a", 1, "3.png")  # other pixels
    assert cached(rows, cache).encoded == 1
    (tmp_path / "a" / "notes.txt").write_text("no frame")
    assert cached(rows, cache).encoded == 0
    for rate in ("", "32"):
        rows = manifest(tmp_path, f"p,a,{rate}", f"p,b,{rate}")
        cached(rows, cache)
        (tmp_path / "a" / "3.png").touch()  # the same bytes again
        assert cached(rows, cache).encoded == 0
    rows = manifest(tmp_path, "p,a,", "p,b,")
    cached(rows, cache)
    (tmp_path / "b" / "11.png").unlink()  # fewer
    assert cached(rows, cache).encoded == 1
    rows = manifest(tmp_path, "p,a,", "p,b,32")  # another rate
    assert cached(rows, cache).encoded == 1 and cached(rows, cache).encoded == 0
    with pytest.raises(CacheError, match="source_rate"):
        cached(rows, cache, ClipOptions((1, 9), 16.0, "middle", 8.0))


def test_folders_that_cannot_be_used_are_set_aside_and_tried_again(tmp_path: Path) -> None:
    frames(tmp_path / "a", 12)
    (tmp_path / "b").mkdir()
    rows = manifest(tmp_path, "p,a,", "p,b,", "p,c,", "p,a/0.png,", "q,a,no")
    report = cached(rows, tmp_path / "cache", ClipOptions((9,), 16.0), max_bad_fraction=0.9)
    causes = [entry.cause for entry in sorted(report.quarantined, key=lambda entry: entry.line)]
    assert report.samples == 1 and len(causes) == 4
    for cause, part in zip(
        causes,
        ("a folder without frames", "No such file", "it is an image", "its frame_rate is 'no'"),
        strict=True,
    ):
        assert part in cause
    frames(tmp_path / "b", 9)
    report = cached(rows, tmp_path / "cache", ClipOptions((9,), 16.0), max_bad_fraction=0.9)
    assert (report.samples, report.encoded) == (2, 1)


def test_a_folder_that_is_gone_leaves_its_latents(tmp_path: Path) -> None:
    for name in "ab":
        frames(tmp_path / name, 9)
    rows = manifest(tmp_path, "p,a,", "p,b,")
    cached(rows, tmp_path / "cache")
    (tmp_path / "a").rename(tmp_path / "away")
    report = cached(rows, tmp_path / "cache")
    assert (report.samples, report.encoded) == (2, 0)


def test_videos_and_folders_have_the_same_clips(tmp_path: Path) -> None:
    frames(tmp_path / "a", 20)
    pictures = [Image.open(tmp_path / "a" / f"{number}.png") for number in range(20)]
    (tmp_path / "a.mp4").write_bytes(write_video(Video(pictures, 32.0)))
    rows = manifest(tmp_path, "p,a,32", "p,a.mp4,7")  # a file has its own rate
    folder, file = prepared(rows, ClipOptions((9,), 16.0))
    assert isinstance(folder, PreparedImage) and isinstance(file, PreparedImage)
    assert not isinstance(folder.image, Image.Image) and not isinstance(file.image, Image.Image)
    assert levels(folder.image) == levels(file.image) == list(range(2, 20, 2))
