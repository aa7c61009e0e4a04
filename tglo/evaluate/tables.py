"""The tables of an evaluation, as Markdown and LaTeX, and all numbers in long form as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tglo.evaluate.results import Results
from tglo.evaluate.settings import BASE

MARK = "†"
NOTE = f"Intervals: 95%, bootstrap over prompts. {MARK}: the reward that the model was trained on."


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the rows."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(prompt_sets: Results) -> list[Table]:
    """Return, for each prompt set, the tables of means, medians, diversity and win rates: against the base,
    of every two models, and by category.
    """
    found: list[Table] = []
    for name, content in prompt_sets.items():
        noun = "videos" if "videos" in content else "images"
        title = f"{name} ({content['prompts']} prompts, {content[noun]} {noun} a model)"
        models, win_rates = content["models"], content["win_rates"]
        scorers, trained = list(win_rates), [model for model in models if model != BASE]
        for statistic in ("mean", "median"):
            rows = [
                [model, *(_marked(estimate(s[statistic]), s) for s in entry["scores"].values())]
                for model, entry in models.items()
            ]
            found.append(Table(f"{title}: {statistic} score", ["model", *scorers], rows))
        if any(entry["diversity"] for entry in models.values()):
            rows = [[model, estimate(entry["diversity"])] for model, entry in models.items()]
            found.append(Table(f"{title}: diversity", ["model", "mean distance"], rows))
        if trained:
            rows = []
            for model in trained:
                scores = models[model]["scores"]
                wins = (_marked(_win(win_rates[s][model][BASE]), scores[s]) for s in scorers)
                rows.append([model, *wins])
            found.append(Table(f"{title}: win rate against {BASE}", ["model", *scorers], rows))
        if len(trained) > 1:
            found += [_duel(title, scorer, win_rates[scorer]) for scorer in scorers]
        if content["categories"] and trained:
            found += [_categories(title, s, trained, content["categories"]) for s in scorers]
    return found


def _duel(title: str, scorer: str, win_rates: Results) -> Table:
    rows = [
        [model, *(_win(others[other]) if other in others else "" for other in win_rates)]
        for model, others in win_rates.items()
    ]
    return Table(f"{title}: win rate of row against column, {scorer}", ["", *win_rates], rows)


def _categories(title: str, scorer: str, models: Sequence[str], categories: Results) -> Table:
    rows = [
        [f"{name} ({entry['prompts']})", *(_win(entry["win_rates"][scorer][m]) for m in models)]
        for name, entry in categories.items()
    ]
    return Table(f"{title}: win rate against {BASE} by category, {scorer}", ["", *models], rows)


def estimate(entry: Results) -> str:
    """Return "0.2860 [0.2811, 0.2905]", to four significant digits."""
    value, low, high = (f"{entry[key]:#.4g}".rstrip(".") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _win(entry: Results) -> str:
    """Return a rate and its interval in percent."""
    value, low, high = (100 * entry[key] for key in ("value", "low", "high"))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]"


def _marked(text: str, score: Results) -> str:
    return f"{text} {MARK}" if score["trained_on"] else text


def markdown(found: Iterable[Table]) -> str:
    """Return all tables of an evaluation under headings."""
    blocks = [NOTE, *(f"## {table.title}\n\n{markdown_table(table)}" for table in found)]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table without its title."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        for cells in (table.header, rule, *table.rows)
    )


def csv_text(lines: Iterable[Sequence[Any]]) -> str:
    """Return the lines as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue()


def latex(found: Iterable[Table]) -> str:
    """Return a tabular for each table; it needs no package."""
    blocks = [f"% {NOTE.replace(MARK, 'dagger')}"]
    for table in found:
        header, *rows = (
            " & ".join(latex_escape(cell) for cell in cells) + r" \\"
            for cells in (table.header, *table.rows)
        )
        columns = "l" + "r" * (len(table.header) - 1)
        title = f"% {' '.join(table.title.split())}"
        begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
        lines = [title, begin, r"\hline", header, r"\hline", *rows, r"\hline", end]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    MARK: r"$^\dagger$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex_escape(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)


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
    for scorer, rates in content["win_rates"].items():
        for model, others in rates.items():
            for other, rate in others.items():
                yield "", model, other, scorer, "win_rate", rate
    for category, entry in content["categories"].items():
        for scorer, rates in entry["win_rates"].items():
            for model, rate in rates.items():
                yield category, model, BASE, scorer, "win_rate", rate
