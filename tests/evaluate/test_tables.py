"""Tables and pictures from made-up results with awkward names."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from tglo.evaluate import figures, latex, tables
from tglo.evaluate.results import Results
from tglo.evaluate.samples import ModelSamples
from tglo.evaluate.settings import parse_named, parse_trained_on
from tglo.evaluate.tables import Judged
from tglo.generation.prompts import PromptSet
from tglo.rewards import named_scorers


def test_markdown_marks_what_was_trained_on_and_escapes(content: Results) -> None:
    text = tables.markdown(tables.tables(content))
    assert "| model | a\\|b | m:f_1 |" in text
    assert "| tgo_1 | 1.250 [1.150, 1.350] † | 1.250 [1.150, 1.350] |" in text
    assert "| tgo_1 | 62.5% [52.5, 72.5] † ▲ better | 62.5% [52.5, 72.5] ▲ better |" in text
    assert "| base |  | 62.5% [52.5, 72.5] ▲ better | 62.5% [52.5, 72.5] ▲ better |" in text
    # Paired differences; diversity that grows is not called better.
    assert (
        "| tgo_1 | +0.05 [-0.05, +0.15] † | -0.30 [-0.40, -0.20] ▼ worse | +2.00 [+1.90, +2.10] |"
        in text
    )
    assert "| R&D (2) | 50.0% [40.0, 60.0] | 50.0% [40.0, 60.0] |" in text
    kinds = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(kinds) == 5 + 2 + 2 and all("50% (3 prompts, 6 images a model)" in k for k in kinds)


def test_latex_escapes(content: Results) -> None:
    text = latex.latex(tables.tables(content))
    assert r"tgo\_1 & 1.250 [1.150, 1.350] $^\dagger$ & 1.250 [1.150, 1.350] \\" in text
    assert r"R\&D (2) & 50.0\% [40.0, 60.0]" in text
    assert r"[-0.40, -0.20] $\bigtriangledown$ worse" in text
    assert text.splitlines()[0].isascii()
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"\begin{tabular}") - 4
    assert text.count(r"\end{tabular}") == 9
    assert latex.escape(r"\a_{b}^2~#$&%") == (
        r"\textbackslash{}a\_\{b\}\textasciicircum{}2\textasciitilde{}\#\$\&\%"
    )


def test_csv_has_every_estimate_at_full_precision(content: Results) -> None:
    content["50%"]["models"]["sft"]["diversity"]["value"] = 0.1 + 0.2
    rows = list(csv.DictReader(io.StringIO(tables.long_csv(content))))
    assert len(rows) == 3 + 3 * 2 * 2 + 2 * (2 * 3 * 2) + 3 * 2 + 2 * 2
    sft = next(r for r in rows if r["model"] == "sft" and r["statistic"] == "diversity")
    assert float(sft["value"]) == 0.1 + 0.2
    marked = {(r["model"], r["scorer"]) for r in rows if r["trained_on"] == "1"}
    assert marked == {("tgo_1", "a|b")}


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(-0.04, 0.06, "+0.01 [-0.04, +0.06]"), (900.0, 1100.0, "+1000 [+900, +1100]"),
     (0.0, 0.0, "+0.000 [+0.000, +0.000]"), (1e-12, 3e-12, "+0.000000000 [+0.000000000, +0.000000000]")],
)  # fmt: skip
def test_differences_have_the_digits_that_their_width_bears(
    low: float, high: float, text: str
) -> None:
    assert tables.difference({"value": (low + high) / 2, "low": low, "high": high}) == text


def test_a_judged_cell_has_a_sign_and_a_word() -> None:
    assert [str(Judged("1", kind)) for kind in ("", "better", "worse")] == [
        "1", "1 ▲ better", "1 ▼ worse"
    ]  # fmt: skip


def texts_of(figure: Any) -> list[Text]:
    """All texts but the labels of ticks beyond the ends of an axis, which are not drawn."""
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            beyond |= {t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high}
    found = figure.findobj(lambda it: isinstance(it, Text) and it not in beyond)
    return [text for text in found if text.get_text() and text.get_visible()]


def test_no_text_of_a_figure_runs_into_another(
    content: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long names of scorers, models and sets, as those of a served scorer are."""
    entry, names = content["50%"], {"m:f_1": f"http://{'a-long-host.' * 5}example:8000/score"}
    names["a|b"] = "a.package:of_a_function_with_quite_a_name"
    for key in ("win_rates", "differences"):
        entry[key] = {names[scorer]: values for scorer, values in entry[key].items()}
    for model in entry["models"].values():
        model["scores"] = {names[scorer]: values for scorer, values in model["scores"].items()}
    scorers = list(entry["win_rates"])
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "png", lambda figure, **_: drawn.append(figure))
    figures.win_rates({"a set of $prompts$ " * 8: entry, "short": entry})
    rows = np.arange(12)
    scores = {m: {s: rows[:, None] * 1.0 for s in scorers} for m in entry["models"]}
    prompts = tuple(map(str, rows))
    samples = ModelSamples(prompts, 1, {}, scores=scores)
    sets = [PromptSet(name, prompts, ()) for name in ("unseen", "short")]
    figures.histograms(sets, samples, scorers)
    for figure in drawn:
        figure.draw_without_rendering()
        size = figure.get_window_extent()
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
        assert len(boxes) > 10
        for number, (text, box) in enumerate(boxes):
            assert size.x0 <= box.x0 and box.x1 <= size.x1, text
            met = [other for other, place in boxes[:number] if box.overlaps(place)]
            assert not met, (text, met)


def test_win_rates_are_drawn_with_formula_characters(content: Results) -> None:
    content["$x_$"] = content.pop("50%")
    picture = Image.open(io.BytesIO(figures.win_rates(content)))
    assert picture.width > 500 and len(np.unique(np.asarray(picture.convert("RGB")))) > 20


@pytest.mark.parametrize(
    ("scorers", "shown"),
    [
        (["a.b:ink", "hpsv2", "c:bold"], ["ink", "hpsv2", "bold"]),
        (["a:ink", "b:ink"], ["a:ink", "b:ink"]),
        (["a:ink", "ink"], ["a:ink", "ink"]),
        (["http://127.0.0.1:8000/score"], ["http://127.0.0.1:8000/score"]),
    ],
)
def test_own_scorers_have_short_labels_where_they_stay_apart(
    scorers: list[str], shown: list[str]
) -> None:
    assert figures.labels(scorers) == shown


@pytest.mark.parametrize("values", [[0.0] * 3, [1e9] * 3, [1.0, 1.0 + 1e-15], [0.0, 1.0]])
def test_bins_hold_all_values(values: list[float]) -> None:
    edges = figures._bins(np.array(values))
    assert (np.diff(edges) > 0).all()
    assert np.histogram(values, edges)[0].sum() == len(values)


def test_names_and_paths_are_parsed() -> None:
    assert parse_named(["a=./x", "b=c=d"], "--models") == {"a": "./x", "b": "c=d"}
    for texts in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(ValueError, match="--models .* write NAME=PATH, every name once"):
            parse_named(texts, "--models")
    assert named_scorers(["ink", "clip=./a,head=./b"]) == {
        "ink": "ink", "clip": "clip=./a,head=./b"
    }  # fmt: skip
    with pytest.raises(ValueError, match="scorer clip is given twice"):
        named_scorers(["clip=./a", "clip"])
    assert parse_trained_on(["ink", "tgo=m:f"], ["tgo", "sft"]) == {
        "tgo": ["ink", "m:f"], "sft": ["ink"]
    }  # fmt: skip
