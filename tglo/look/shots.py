"""The images of a page, each with its score and prompt under it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tglo.data.manifest import Manifest, Row
from tglo.look.findings import Findings
from tglo.look.thumbnails import Thumbnail, thumbnail

_PROMPT = 240  # characters of a prompt under an image
_CONFLICTS = 6  # shown as images


@dataclass(frozen=True)
class Shot:
    """An image with what stands under it."""

    image: Thumbnail
    name: str
    title: str
    text: str
    detail: str


class Shots:
    """Makes the shown images, each once."""

    def __init__(self, manifest: Manifest, found: Findings) -> None:
        self.manifest, self.found = manifest, found
        self._known: dict[str, Thumbnail] = {}
        scored = [n for n, row in enumerate(manifest.rows) if row.score is not None]
        self._place = dict(zip(scored, range(len(scored)), strict=True))

    def of(self, rows: Iterable[int]) -> list[Shot]:
        """Return the images of scored rows."""
        return [self._scored(row) for row in rows]

    def conflicts(self) -> list[Shot]:
        """Return images with contradicting scores, of one name or of one content."""
        repeats, contents = self.found.repeats, self.found.contents
        found = [
            self._shot(item.row, item.image, _numbers(item.scores), item.prompts)
            for item in repeats.conflicts_shown
        ]
        found += [
            self._shot(item.row, ", ".join(item.images), _numbers(item.scores), item.prompts)
            for item in contents.shown[: contents.conflicts]
        ]
        return found[:_CONFLICTS]

    def _scored(self, number: int) -> Shot:
        row, labelled = self.manifest.rows[number], self.found.labelled
        detail = ""
        if labelled is not None:
            place = self._place[number]
            apart = row.score - labelled.tau[place]  # type: ignore[operator]
            where = f"{apart:+.4g} from its threshold" if apart else "at its threshold"
            detail = f"{where}, weight {labelled.weight[place]:.4g}"
        return Shot(self._image(row), row.image, _number(row.score), _short(row.prompt), detail)

    def _shot(self, number: int, name: str, title: str, prompts: Sequence[str]) -> Shot:
        image = self._image(self.manifest.rows[number])
        return Shot(image, name, title, _short(" / ".join(prompts)), name)

    def _image(self, row: Row) -> Thumbnail:
        if row.image not in self._known:
            self._known[row.image] = thumbnail(self.manifest, row)
        return self._known[row.image]


def _numbers(scores: Sequence[float | None]) -> str:
    return " and ".join(dict.fromkeys(_number(score) for score in scores))


def _number(score: float | None) -> str:
    return "no score" if score is None else f"{score:.5g}"


def _short(text: str) -> str:
    return text if len(text) <= _PROMPT else f"{text[: _PROMPT - 1]}…"
