"""Whether a file is a video: by its name, where nothing is read, and by its first bytes."""

from __future__ import annotations

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv"),
)
"""Endings of the files that are taken for videos."""
IS_VIDEO = (
    f"it is a video ({{kind}}), and an image is needed: leave it out, or take a model of videos (Wan, LTX); to be "
    f"scored by its frames, its name has to end in one of {', '.join(SUFFIXES)}"
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_IMAGES = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
_STARTS = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"FLV": "FLV",
    b"0&\xb2u\x8ef\xcf\x11": "WMV",
    b"OggS": "Ogg",
    b"\0\0\1\xba": "MPEG",
    b"\0\0\1\xb3": "MPEG",
}


def is_video(name: str) -> bool:
    """Say whether a file is taken for a video, by its ending."""
    return name.lower().endswith(SUFFIXES)


def video_kind(start: bytes) -> str | None:
    """Return what kind of video a file is by its first bytes, 12 at least, None if it is none that is known."""
    if start[4:8] in _BOXES and start[8:12] not in _IMAGES:
        return "MP4 or MOV"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "AVI"
    return next((kind for bytes_, kind in _STARTS.items() if start.startswith(bytes_)), None)
