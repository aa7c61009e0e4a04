"""The videos of an evaluation side by side: in the page, which plays them, and as sheets of their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw

from tglo.data.video import Video
from tglo.data.video_views import read_frames
from tglo.evaluate.figures import colour, image_grid, png, strip
from tglo.evaluate.gallery import Piece, Row
from tglo.evaluate.samples import ModelSamples
from tglo.evaluate.settings import BASE, Evaluation
from tglo.pages.render import picture

EMBEDDED = 16 * 2**20
"""Bytes of videos that a page holds; of more than that it links the files beside it."""
FRAMES = 8  # of a video in its sheet
TILE = 120  # pixels of a frame's longer side in a sheet


@dataclass(frozen=True)
class Shown:
    """A prompt with a video of each model, by the model's name and under the same seed."""

    prompt: str
    files: Mapping[str, str]
    """Paths from the page's folder."""
    videos: Mapping[str, Video]
    """FRAMES frames of each, at most."""

    def sheet(self, number: int) -> Image.Image:
        """Return the frames: a row for each model, a column for each place in time, under the prompt's number."""
        rows = {model: video.frames for model, video in self.videos.items()}
        sizes = [video.size for video in self.videos.values()]
        row = max(round(TILE * height / max(height, width)) for height, width in sizes)
        page = image_grid(rows, [colour(line) for line in range(len(rows))], TILE, row, gap=3)
        ImageDraw.Draw(page).text((6, 4), f"#{number}", fill="black", font_size=15)
        return page


def shown(samples: ModelSamples, prompts: Sequence[str]) -> list[Shown]:
    """Return the first video of each model for these prompts, some frames of it read."""
    found = []
    for prompt, row in zip(prompts, samples.rows(prompts), strict=True):
        rows = {model: samples.image(model, row, 0) for model in samples.manifests}
        videos = {}
        for model, manifest in samples.manifests.items():
            with manifest.open_file(rows[model]) as file:
                videos[model] = read_frames(file, min(FRAMES, samples.frames[model]))
        files = {model: f"images/{model}/{of.image}" for model, of in rows.items()}
        found.append(Shown(prompt, files, videos))
    return found


def sheets(found: Sequence[Shown]) -> bytes:
    """Return, as PNG, the sheets of all prompts below each other."""
    pages = [one.sheet(number) for number, one in enumerate(found, start=1)]
    whole = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), "white")
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return png(whole)


def are_embedded(found: Sequence[Shown], folder: Path) -> bool:
    """Say whether all these files are small enough together to be inside a page in `folder`."""
    names = {name for one in found for name in one.files.values()}
    return sum((folder / name).stat().st_size for name in names) <= EMBEDDED


def facts(settings: Evaluation, samples: ModelSamples, embed: bool) -> list[str]:
    """Return what is to be known of the videos besides what is said of images."""
    scored = settings.videos
    frames = {model: str(number) for model, number in samples.frames.items()}
    same = len(set(frames.values())) == 1
    told = frames[BASE] if same else ", ".join(f"{m} {n}" for m, n in frames.items())
    return [
        f"{told} frames a video; scorers of images score {scored.frames} of them, evenly from first to last, "
        f"and their {scored.of_frames} is the video's score",
        "the videos are inside this page"
        if embed
        else "the videos are the files in images/, which this page needs beside it",
    ]


def gallery(found: Sequence[Shown], folder: Path, embed: bool) -> list[Row]:
    """Return every prompt's videos beside each other, with some frames of each.

    embed: the page, in `folder`, holds the files; else it links them.
    """
    rows = []
    for one in found:
        pieces = []
        for place, (model, video) in enumerate(one.videos.items()):
            height, width = video.size
            link = quote(one.files[model])
            data = (folder / one.files[model]).read_bytes() if embed else b""
            source = picture(data, "video/mp4") if embed else link
            frames = picture(png(strip(video.frames, TILE)))
            pieces.append(Piece(model, colour(place), source, (width, height), link, frames))
        rows.append(Row(one.prompt, pieces))
    return rows
