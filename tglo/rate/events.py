"""What a rater does: gives stars, skips, undoes, and has skipped images shown again. The log has a line for each."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

import msgspec

STARS = 5
LONGEST_NAME = 64  # characters
Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z-]{8,64}\Z")]
Sample = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}\Z")]
"""A row's sample id. As text: it has 63 bits, and a number has 53 in a browser."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", omit_defaults=True):
    """id: made by the page, so that what is sent twice counts once. rater, at: filled in by the server."""

    id: Id
    rater: str = ""
    at: str = ""


class _OfImage(_Event, frozen=True, kw_only=True):
    """seconds: how long it was looked at. file, digest: the image's version (versions.py), filled in by the server."""

    sample: Sample
    seconds: Seconds | None = None
    file: str = ""
    digest: str = ""


class Rate(_OfImage, frozen=True, kw_only=True, tag="rate"):
    """Stars for an image."""

    stars: Annotated[int, msgspec.Meta(ge=1, le=STARS)]


class Skip(_OfImage, frozen=True, kw_only=True, tag="skip"):
    """An image that the rater does not want to rate."""


class Undo(_Event, frozen=True, kw_only=True, tag="undo"):
    """Takes back a rating or a skip, named by its id."""

    of: Id


class Again(_Event, frozen=True, kw_only=True, tag="again"):
    """All images that the rater has skipped are to be shown again."""


Event = Rate | Skip | Undo | Again


def parse(data: bytes | str, kind: Any) -> Any:
    """Return JSON as `kind`, a type that msgspec knows; ValueError, which says where it is wrong."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def clean_name(text: str) -> str:
    """Return a rater's name in the form that the log has; ValueError for one that cannot be a name."""
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not _seen(name):
        raise ValueError("a rater needs a name; any word will do")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name has {len(name)} characters; it may have {LONGEST_NAME}")
    if not _seen(name).isprintable():
        raise ValueError(
            "the name has characters that cannot be printed; write letters, digits and signs"
        )
    return name


def key_of(name: str) -> str:
    """Return what tells raters apart: Ann and ann are one person."""
    return _seen(name).casefold()


def _seen(name: str) -> str:
    """Return a name without the joiners that Persian, Hindi and emoji are written with, and nobody sees."""
    return name.replace("\u200c", "").replace("\u200d", "")
