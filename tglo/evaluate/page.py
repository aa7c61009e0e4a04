"""The page of an evaluation: what got better and worse, images under their prompts, and all tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tglo.evaluate import tables
from tglo.evaluate.diversity import FRAMES
from tglo.evaluate.figures import colour, labels
from tglo.evaluate.gallery import Row
from tglo.evaluate.results import Results
from tglo.evaluate.settings import BASE
from tglo.evaluate.tables import MARK, Judged
from tglo.pages.render import page as rendered
from tglo.pages.render import picture

VIDEOS = {"media-src": "data: 'self' file:"}  # inside the page, or beside it


@dataclass(frozen=True)
class Comparison:
    """A model against the base on a prompt set, by one scorer or in diversity."""

    prompt_set: str
    model: str
    colour: str
    by: str
    trained_on: bool
    rate: Results | None
    """Estimate of the win rate; None of diversity."""
    win_rate: Judged | None
    change: Judged
    """Of the mean."""

    @property
    def is_loss(self) -> bool:
        return "worse" in (self.change.verdict, self.win_rate and self.win_rate.verdict)


def page(
    facts: Sequence[str],
    prompt_sets: Results,
    histograms: Mapping[str, Sequence[bytes]],
    galleries: Mapping[str, Sequence[Row]],
    videos: bool = False,
) -> str:
    """Return the page. facts: what is to be known of the making; histograms: set -> PNG of each scorer;
    galleries: set -> prompts with their samples.
    """
    first = next(iter(prompt_sets.values()))
    found = {name: comparisons(prompt_sets, name) for name in prompt_sets}
    scorers = list(first["win_rates"])
    short = dict(zip(scorers, labels(scorers), strict=True))
    sets = [
        {
            "name": name,
            "prompts": content["prompts"],
            "comparisons": found[name],
            "rows": galleries[name],
            "histograms": [
                (label, picture(data))
                for label, data in zip(short.values(), histograms[name], strict=True)
            ],
            "tables": [
                replace(table, header=[short.get(text, text) for text in table.header])
                for kind in (tables.among_models, tables.of_each)
                for table in kind(prompt_sets, name)
            ],
        }
        for name, content in prompt_sets.items()
    ]
    return rendered(
        "evaluation.html",
        title="Evaluation",
        policy=VIDEOS if videos else None,
        base=BASE,
        facts=[*facts, *_full_names(scorers)],
        note=tables.note(tables.tables(prompt_sets)),
        mark=MARK,
        sets=sets,
        models=[(name, colour(number)) for number, name in enumerate(first["models"])],
        losses=[one for several in found.values() for one in several if one.is_loss],
        noun="videos" if videos else "images",
        diverse=any(entry["diversity"] for entry in first["models"].values()),
        measured=f"{FRAMES} frames of each, evenly from first to last," if videos else "the images",
    )


def comparisons(prompt_sets: Results, name: str) -> list[Comparison]:
    """Return a set's comparisons with the base, model by model."""
    content = prompt_sets[name]
    scorers = list(content["win_rates"])
    found = []
    for number, (model, entry) in enumerate(content["models"].items()):
        if model == BASE:
            continue
        for scorer, label in zip(scorers, labels(scorers), strict=True):
            rate = content["win_rates"][scorer][model][BASE]
            change = content["differences"][scorer][model][BASE]
            trained_on = entry["scores"][scorer]["trained_on"]
            judged = tables.rate(rate), tables.change(change)
            found.append(Comparison(name, model, colour(number), label, trained_on, rate, *judged))
        if content["diversity_differences"]:
            change = tables.diversity_change(content["diversity_differences"][model][BASE])
            found.append(
                Comparison(name, model, colour(number), "diversity", False, None, None, change)
            )
    return found


def _full_names(scorers: Sequence[str]) -> list[str]:
    """Return what the short names of scorers stand for, where there are any."""
    pairs = zip(labels(scorers), scorers, strict=True)
    return [f"{label} is the scorer {scorer}" for label, scorer in pairs if label != scorer]
