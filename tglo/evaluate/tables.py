"""The tables of an evaluation, as Markdown, and all numbers in long form as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tglo.evaluate.results import Results
from tglo.evaluate.settings import BASE

MARK = "†"
SIGNS = {"better": "▲", "worse": "▼"}
_INTERVALS = (
    "Intervals: 95%, over prompts; of win rates Wilson's, of all else the bootstrap's. "
    f"{SIGNS['better']} better, {SIGNS['worse']} worse: the interval lies wholly on one side of no difference."
)
_MARKED = f" {MARK}: the reward that the model was trained on."


@dataclass(frozen=True)
class Judged:
    """A cell with a verdict, a key of SIGNS or "" where the interval leaves it open."""

    text: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.text} {SIGNS[self.verdict]} {self.verdict}" if self.verdict else self.text


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Judged]]


def verdict(entry: Results, even: float = 0.0) -> str:
    """Return "better", "worse" or "" for an estimate that is `even` where nothing differs."""
    return "better" if entry["low"] > even else "worse" if entry["high"] < even else ""


def tables(prompt_sets: Results) -> list[Table]:
    """Return all tables, one prompt set after the other."""
    kinds = (against_base, among_models, of_each)
    return [table for name in prompt_sets for kind in kinds for table in kind(prompt_sets, name)]


def against_base(prompt_sets: Results, name: str) -> list[Table]:
    """Return a set's tables of trained models against the base: win rates, and differences of the means."""
    title, content = _title(prompt_sets, name), prompt_sets[name]
    models, win_rates = content["models"], content["win_rates"]
    scorers, trained = list(win_rates), [model for model in models if model != BASE]
    if not trained:
        return []
    rates, differences = [], []
    for model in trained:
        scores = models[model]["scores"]
        rates.append([model, *(rate(win_rates[s][model][BASE], scores[s]) for s in scorers)])
        cells = [change(content["differences"][s][model][BASE], scores[s]) for s in scorers]
        if content["diversity_differences"]:
            cells.append(diversity_change(content["diversity_differences"][model][BASE]))
        differences.append([model, *cells])
    diversity = ["diversity"] if content["diversity_differences"] else []
    header = ["model", *scorers]
    of_means = f"{title}: mean score minus that of {BASE}, paired"
    return [
        Table(f"{title}: win rate against {BASE}", header, rates),
        Table(of_means, [*header, *diversity], differences),
    ]


def among_models(prompt_sets: Results, name: str) -> list[Table]:
    """Return a set's tables of win rates of every two models, and against the base by category."""
    title, content = _title(prompt_sets, name), prompt_sets[name]
    trained = [model for model in content["models"] if model != BASE]
    found = []
    if len(trained) > 1:
        found += [_duel(title, scorer, rates) for scorer, rates in content["win_rates"].items()]
    if content["categories"] and trained:
        scorers = content["win_rates"]
        found += [_categories(title, s, trained, content["categories"]) for s in scorers]
    return found


def of_each(prompt_sets: Results, name: str) -> list[Table]:
    """Return a set's tables of each model on its own: means, medians and diversity."""
    title, models = _title(prompt_sets, name), prompt_sets[name]["models"]
    scorers = list(prompt_sets[name]["win_rates"])
    found = []
    for statistic in ("mean", "median"):
        rows = [
            [model, *(_marked(estimate(s[statistic]), s) for s in entry["scores"].values())]
            for model, entry in models.items()
        ]
        found.append(Table(f"{title}: {statistic} score", ["model", *scorers], rows))
    if any(entry["diversity"] for entry in models.values()):
        rows = [[model, estimate(entry["diversity"])] for model, entry in models.items()]
        found.append(Table(f"{title}: diversity", ["model", "mean distance"], rows))
    return found


def _title(prompt_sets: Results, name: str) -> str:
    content = prompt_sets[name]
    noun = "videos" if "videos" in content else "images"
    return f"{name} ({content['prompts']} prompts, {content[noun]} {noun} a model)"


def _duel(title: str, scorer: str, win_rates: Results) -> Table:
    rows = [
        [model, *(rate(others[other]) if other in others else "" for other in win_rates)]
        for model, others in win_rates.items()
    ]
    return Table(f"{title}: win rate of row against column, {scorer}", ["", *win_rates], rows)


def _categories(title: str, scorer: str, models: Sequence[str], categories: Results) -> Table:
    rows: list[list[str | Judged]] = [
        [f"{name} ({entry['prompts']})", *(rate(entry["win_rates"][scorer][m]) for m in models)]
        for name, entry in categories.items()
    ]
    return Table(f"{title}: win rate against {BASE} by category, {scorer}", ["", *models], rows)


def estimate(entry: Results) -> str:
    """Return "0.2860 [0.2811, 0.2905]", to four significant digits."""
    value, low, high = (f"{entry[key]:#.4g}".rstrip(".") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def percent(entry: Results) -> str:
    """Return a rate and its interval in percent."""
    value, low, high = (100 * entry[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def difference(entry: Results) -> str:
    """Return "+0.2860 [+0.2811, +0.2905]", to the digits that its interval's width can bear."""
    width = entry["high"] - entry["low"]
    digits = min(max(0, 1 - math.floor(math.log10(width))), 9) if width > 0 else 3
    value, low, high = (f"{entry[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def rate(entry: Results, score: Results | None = None) -> Judged:
    """Return a win rate against the base as a cell; score: of the model by the scorer."""
    return Judged(_marked(percent(entry), score), verdict(entry, even=0.5))


def change(entry: Results, score: Results | None = None) -> Judged:
    """Return a difference from the base as a cell."""
    return Judged(_marked(difference(entry), score), verdict(entry))


def diversity_change(entry: Results) -> Judged:
    """Return a difference of diversity as a cell: less is worse, more is not always better."""
    return Judged(difference(entry), "worse" if verdict(entry) == "worse" else "")


def _marked(text: str, score: Results | None) -> str:
    return f"{text} {MARK}" if score and score["trained_on"] else text


def note(found: Iterable[Table]) -> str:
    """Return what explains the tables: intervals, and the marks that are in them."""
    cells = (str(cell) for table in found for row in (table.header, *table.rows) for cell in row)
    return _INTERVALS + (_MARKED if any(MARK in cell for cell in cells) else "")


def markdown(found: Sequence[Table]) -> str:
    """Return all tables of an evaluation under headings."""
    blocks = [note(found), *(f"## {table.title}\n\n{markdown_table(table)}" for table in found)]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table without its title."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
        for cells in (table.header, rule, *table.rows)
    )


def csv_text(lines: Iterable[Sequence[Any]]) -> str:
    """Return the lines as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue()


def long_csv(prompt_sets: Results) -> str:
    """Return every estimate on a line of its own, at full precision."""
    header = ["prompt_set", "category", "model", "against", "scorer", "trained_on", "statistic"]
    lines: list[list[Any]] = [[*header, "value", "low", "high"]]
    for name, content in prompt_sets.items():
        for category, model, against, scorer, statistic, entry in _estimates(content):
            score = content["models"][model]["scores"].get(scorer)
            trained = "" if score is None else int(score["trained_on"])
            numbers = (entry[key] for key in ("value", "low", "high"))
            lines.append([name, category, model, against, scorer, trained, statistic, *numbers])
    return csv_text(lines)


def _estimates(content: Results) -> Iterator[tuple[str, str, str, str, str, Results]]:
    """Yield (category, model, against, scorer, statistic, estimate) of a prompt set."""
    for model, entry in content["models"].items():
        if entry["diversity"]:
            yield "", model, "", "", "diversity", entry["diversity"]
        for scorer, score in entry["scores"].items():
            for statistic in ("mean", "median"):
                yield "", model, "", scorer, statistic, score[statistic]
    for statistic, key in (("win_rate", "win_rates"), ("mean_difference", "differences")):
        for scorer, compared in content[key].items():
            for model, others in compared.items():
                for other, found in others.items():
                    yield "", model, other, scorer, statistic, found
    for model, others in content["diversity_differences"].items():
        for other, found in others.items():
            yield "", model, other, "", "diversity_difference", found
    for category, entry in content["categories"].items():
        for scorer, rates in entry["win_rates"].items():
            for model, rate in rates.items():
                yield category, model, BASE, scorer, "win_rate", rate
