"""Clips of videos for a cache: which one of a file, in which bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from tglo.cache.encode import PreparedImage
from tglo.cache.format import Quarantined
from tglo.cache.latents import LatentCache
from tglo.data.buckets import Bucket, Size, nearest_bucket
from tglo.data.errors import CacheError, ImageError
from tglo.data.frames import FrameFolder
from tglo.data.images import cover_and_crop
from tglo.data.manifest import Manifest, Row
from tglo.data.video import Clip, about, read_clip
from tglo.settings import ClipOptions

_TICK = 1e-3  # seconds by which a file's length may be rounded


def prepare_clip(
    manifest: Manifest, row: Row, buckets: Sequence[Bucket], clips: ClipOptions
) -> PreparedImage | Quarantined:
    """Decode and crop a clip of one video, or say why that is impossible; clips: resolved."""
    try:
        return _prepared(manifest, row, buckets, clips)
    except ImageError as error:
        return Quarantined(row.line, row.image, str(error))


def _prepared(
    manifest: Manifest, row: Row, buckets: Sequence[Bucket], clips: ClipOptions
) -> PreparedImage:
    assert clips.frame_rate is not None
    with manifest.open_file(row) as file:
        if isinstance(file, FrameFolder):
            said, file.rate = file.rate, file.rate or clips.source_rate or clips.frame_rate
        wanted = [Clip(count, clips.frame_rate, clips.clip) for count in sorted(clips.frames)]
        seconds = about(file).seconds
        fitting = [clip for clip in wanted if _fits(clip, seconds)]
        clip = fitting[-1] if fitting else wanted[0]
        sizes = [(bucket[1], bucket[2]) for bucket in buckets if bucket[0] == clip.frames]
        crops: list[tuple[Size, tuple[int, int], Size]] = []

        def cropped(frame: Image.Image) -> Image.Image:
            """Crop a frame, which is upright, to the bucket of the first one."""
            size = crops[0][0] if crops else nearest_bucket(frame.height, frame.width, sizes)
            image, crop, original = cover_and_crop(frame, size)
            crops.append((size, crop, original))
            return image

        video = read_clip(file, clip, cropped)
        if isinstance(file, FrameFolder):
            file.rate = said  # a later look at the folder alone must give the same digest
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size, crop, original = crops[0]
    bucket = (clip.frames, *size)
    return PreparedImage(row, video.frames, bucket, crop, original, digest, video.is_whole)


def _fits(clip: Clip, seconds: float | None) -> bool:
    return seconds is None or clip.seconds < seconds + _TICK


def check_clips(cache: LatentCache, clips: ClipOptions) -> None:
    """Raise CacheError unless a cache of videos has clips as they are asked for; what is not given may be any."""
    if "clip" not in cache.fingerprint:
        return
    if clips.source_rate is not None:
        cache.check({"source_rate": f"{clips.source_rate:g}"})
    frames = {int(bucket.split("x")[0]) for bucket in cache.fingerprint["buckets"].split()}
    place, rate = cache.fingerprint["clip"].split(", ")
    asked = None if clips.frame_rate is None else f"{clips.frame_rate:g} frames per second"
    if (
        place != clips.clip
        or (asked or rate) != rate
        or (clips.frames and {*clips.frames} != frames)
    ):
        raise CacheError(
            f"the cache {cache.path} has clips of {sorted(frames)} frames from the {place}, {rate}; give these, "
            "or another folder"
        )
