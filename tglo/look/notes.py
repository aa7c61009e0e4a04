"""What a person should read first: what stops training, what may spoil it, and what is good to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tglo.look.contents import Contents
from tglo.look.labels import Labelled
from tglo.look.presence import Presence
from tglo.look.prompts import PromptFacts
from tglo.look.prospects import Prospects
from tglo.look.repeats import Repeats
from tglo.look.sizes import Sizes

if TYPE_CHECKING:
    from tglo.look.sheet import Sheet

Level = Literal["stop", "warning", "note"]
_BARE_SETS = 0.01
"""Share of images that are scaled up, or prompts that are written in two ways, without a warning."""


@dataclass(frozen=True)
class Note:
    """A sentence, and the name under which programs find it. stop: training refuses the data as they are."""

    name: str
    level: Level
    text: str


def about_scores(sheet: Sheet, why_none: str) -> Iterator[Note]:
    """Tell of rows without a score, and why there is no threshold."""
    missing = len(sheet) - sheet.scored.size
    if missing == len(sheet):
        columns = list(sheet.manifest.rows[0].extra)
        others = (
            f", or name their column with --score-column (there are {columns})" if columns else ""
        )
        yield Note(
            "no_scores",
            "stop",
            f"No row has a score: score them (tglo score, or tglo rate by hand){others}. "
            "Until then there is no threshold, and neither "
            "sides nor weights.",
        )
    elif missing:
        lines = [row.line for row in sheet.manifest.rows if row.score is None][:5]
        yield Note(
            "rows_without_score",
            "stop",
            f"Rows without a score: {missing:,} of {len(sheet):,} (lines {', '.join(map(str, lines))}"
            f"{', ...' if missing > 5 else ''}). Training refuses them: score them (tglo score), or leave them out.",
        )
    if why_none:
        yield Note("no_threshold", "stop", f"There is no threshold: {why_none}")


def about_labels(labelled: Labelled) -> Iterator[Note]:
    """Repeat what the threshold's summary says, in its words and ranks."""
    one_label = labelled.summary.degenerate()
    if one_label is not None:
        yield Note("one_label", "stop", _sentence(one_label))
    for text in labelled.summary.warnings():
        yield Note("threshold", "warning", _sentence(text))
    for text in labelled.summary.notes():
        yield Note("threshold", "note", _sentence(text))


def about_images(presence: Presence, sizes: Sizes, contents: Contents) -> Iterator[Note]:
    """Tell of images that are not there, broken, small, or the same as others."""
    if presence.missing:
        yield Note(
            "images_missing",
            "stop" if presence.missing == presence.images else "warning",
            f"Images that are not there: {presence.missing:,} of {presence.images:,}, "
            f"{_some(presence.missing_shown, presence.missing)}. --root names the folder of images that lie elsewhere.",
        )
    if sizes.unreadable:
        shown = [f"{name}: {why}" for name, why in sizes.unreadable_shown.items()]
        yield Note(
            "images_unreadable",
            "warning",
            f"Images that cannot be read: {sizes.unreadable:,} of {sizes.read:,} that were opened. "
            f"{'; '.join(shown[:3])}{'; ...' if sizes.unreadable > 3 else ''}",
        )
    known = sizes.read - sizes.unreadable
    if sizes.enlarged > _BARE_SETS * known:
        yield Note(
            "images_enlarged",
            "note" if sizes.assumed else "warning",
            f"{sizes.enlarged / known:.0%} of the images are smaller than their bucket at resolution {sizes.resolution}"
            + (
                ", which is assumed. --resolution says which one the model has."
                if sizes.assumed
                else " and would be scaled up. tglo cache --resolution takes a lower one."
            ),
        )
    if contents.conflicts:
        yield Note(
            "identical_conflicts",
            "warning",
            f"Images under several names whose scores differ for one prompt: {contents.conflicts:,}. The same picture "
            "is pulled up and down.",
        )
    if contents.identical > contents.conflicts:
        yield Note(
            "identical_images",
            "note",
            f"Images under several names with the same content: {contents.identical - contents.conflicts:,}.",
        )


def about_repeats(repeats: Repeats) -> Iterator[Note]:
    """Tell of rows that name one image."""
    if repeats.conflicts:
        yield Note(
            "conflicts",
            "warning",
            f"Images that have several scores for the same prompt: {repeats.conflicts:,}. Each row counts by itself: "
            "keep one, or their mean.",
        )
    if repeats.again:
        yield Note(
            "repeated_rows",
            "note",
            f"Images that are named several times with the same prompt, and count as often: {repeats.again:,}.",
        )
    if repeats.images:
        yield Note(
            "shared_images",
            "note",
            f"Images that are named under several prompts: {repeats.images:,}, which is right where they were scored "
            "for each.",
        )


def about_prompts(prompts: PromptFacts, baseline: str, per_prompt: bool) -> Iterator[Note]:
    """Tell of prompts with few images, and of those that differ in writing alone."""
    if prompts.single == prompts.count and baseline == "oracle":
        yield Note(
            "one_image_each",
            "warning",
            "Every prompt has one image, so baseline oracle falls back to ridge, a regression on the prompts' "
            "embeddings, and to the mean where those explain nothing. Pairs and groups cannot be formed.",
        )
    elif prompts.single:
        effect = {
            "oracle": " Their means are shrunk most towards the global one.",
            "percentile": " Their percentile is shrunk most towards the global one."
            if per_prompt
            else "",
        }.get(baseline, "")
        yield Note(
            "prompts_with_one_image",
            "warning"
            if prompts.single > prompts.count / 2 and (per_prompt or baseline == "oracle")
            else "note",
            f"Prompts with one image alone, which pairs and groups leave out: {prompts.single:,} of "
            f"{prompts.count:,}.{effect}",
        )
    if prompts.alike:
        alike = prompts.alike_shown[0]
        yield Note(
            "prompts_alike",
            "warning" if prompts.alike > _BARE_SETS * prompts.count else "note",
            f"Prompts that differ from another one by case or spaces alone, and count as different ones: "
            f"{prompts.alike:,}, {_some([repr(text[:80]) for text in alike], len(alike))}.",
        )


def about_run(prospects: Prospects) -> Iterator[Note]:
    """Tell why a run would not start."""
    for text in prospects.refused:
        yield Note("run_refused", "stop", f"A run with these settings would not start: {text}")


def _some(names: list[str], count: int) -> str:
    if count > 3:
        return f"{', '.join(names[:3])} and others"
    return ", ".join(names)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
