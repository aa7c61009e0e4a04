"""Tables, the page and the pictures from made-up results with awkward names."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from tglo.evaluate import figures, html, tables
from tglo.evaluate.results import Results
from tglo.evaluate.settings import parse_named, parse_trained_on
from tglo.evaluate.tables import Table
from tglo.rewards import named_scorers


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


@pytest.fixture
def content() -> Results:
    names = ("base", "tgo_1", "sft")
    scorers = ("a|b", "m:f_1")
    models = {
        name: {
            "diversity": estimate(20.0),
            "scores": {
                s: {"trained_on": (name, s) == ("tgo_1", "a|b"),
                    "mean": estimate(1.25), "median": estimate(123456.0)}
                for s in scorers
            },
        }
        for name in names
    }  # fmt: skip
    rates = {s: {m: {o: estimate(0.625) for o in names if o != m} for m in names} for s in scorers}
    categories = {
        "R&D": {
            "prompts": 2,
            "win_rates": {s: {m: estimate(0.5) for m in names[1:]} for s in scorers},
        }
    }
    entry = {"prompts": 3, "images": 6, "models": models, "win_rates": rates}
    return {"50%": {**entry, "categories": categories}}


def test_markdown_marks_what_was_trained_on_and_escapes(content: Results) -> None:
    text = tables.markdown(tables.tables(content))
    assert "| model | a\\|b | m:f_1 |" in text
    assert "| tgo_1 | 1.250 [1.150, 1.350] † | 1.250 [1.150, 1.350] |" in text
    assert "| tgo_1 | 62.5% [52.5, 72.5] † | 62.5% [52.5, 72.5] |" in text
    assert "| base |  | 62.5% [52.5, 72.5] | 62.5% [52.5, 72.5] |" in text
    assert "| R&D (2) | 50.0% [40.0, 60.0] | 50.0% [40.0, 60.0] |" in text
    kinds = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(kinds) == 4 + 2 + 2 and all("50% (3 prompts, 6 images a model)" in k for k in kinds)


def test_latex_escapes(content: Results) -> None:
    text = tables.latex(tables.tables(content))
    assert r"tgo\_1 & 1.250 [1.150, 1.350] $^\dagger$ & 1.250 [1.150, 1.350] \\" in text
    assert r"R\&D (2) & 50.0\% [40.0, 60.0]" in text
    assert text.count(r"\begin{tabular}{lrr}") == text.count(r"\begin{tabular}") - 3
    assert text.count(r"\end{tabular}") == 8
    assert tables.latex_escape(r"\a_{b}^2~#$&%") == (
        r"\textbackslash{}a\_\{b\}\textasciicircum{}2\textasciitilde{}\#\$\&\%"
    )


def test_csv_has_every_estimate_at_full_precision(content: Results) -> None:
    content["50%"]["models"]["sft"]["diversity"]["value"] = 0.1 + 0.2
    rows = list(csv.DictReader(io.StringIO(tables.long_csv(content))))
    assert len(rows) == 3 + 3 * 2 * 2 + 2 * 3 * 2 + 2 * 2
    sft = next(r for r in rows if r["model"] == "sft" and r["statistic"] == "diversity")
    assert float(sft["value"]) == 0.1 + 0.2
    marked = {(r["model"], r["scorer"]) for r in rows if r["trained_on"] == "1"}
    assert marked == {("tgo_1", "a|b")}


def test_page_escapes_everything_and_runs_nothing() -> None:
    evil = '</ol><script>alert("x")</script>&'
    page = html.page(
        [evil], [Table(evil, [evil], [[evil]])], {evil: b"png"}, {evil: (b"p", [evil])}
    )
    assert "<script" not in page and 'alert("x")' not in page
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)") == 9
    assert "default-src 'none'" in page and 'src="data:image/png;base64,cG5n"' in page


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
