"""The report's numbers, pictures and page, from made-up outcomes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tglo.columns import aligned
from tglo.demo import figures, report, settings
from tglo.demo.report import Outcome
from tglo.train.config_files import load_config


def outcome(name: str, scores: list[float], grey: int) -> Outcome:
    images = [Image.new("RGB", (32, 32), (grey, grey, grey)) for _ in scores]
    values = np.array(scores)
    prompts, correct = ["a <handwritten> zero"] * len(scores), np.arange(len(scores)) > 0
    return Outcome(name, images, prompts, values, np.ones_like(values), 2.0 * values, correct)


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [
        outcome("base", [1.0, 2.0, 3.0], 0),
        outcome("SFT", [2.0, 3.0, 4.0], 80),
        outcome("TGO", [4.0, 5.0, 6.0], 160),
    ]


def test_gain_in_its_three_units(outcomes: list[Outcome]) -> None:
    base, _, tgo = outcomes
    assert base.standard_error == pytest.approx(1 / np.sqrt(3))
    gain = tgo.gain(base)
    assert gain["score"] == 3.0
    assert gain["standard_deviations"] == pytest.approx(3.0)
    assert gain["standard_errors"] == pytest.approx(3.0 / np.sqrt(2 / 3))
    assert tgo.row(base)["stroke_width"] == 10.0


def test_summary_has_a_line_for_each_model(outcomes: list[Outcome]) -> None:
    table = report.table(outcomes)
    lines = aligned([table.header, *([str(c) for c in row] for row in table.rows)]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["base", "SFT", "TGO"]
    # Of the same seeds, so what all samples gain alike has an interval of no width.
    assert "+3.000 [+3.000, +3.000] = +3.00 s.d. ▲ better" in lines[3]
    assert "66.7% [20.8, 93.9]" in lines[3]  # Wilson's of 2 of 3
    assert "s.d." not in lines[1] and "s.e." not in lines[3]


def test_gain_is_paired_and_has_an_interval(outcomes: list[Outcome]) -> None:
    base = outcomes[0]
    row = outcome("SFT", [0.0, 2.5, 3.0], 0).row(base)
    assert row["gain_score"] == pytest.approx(-0.5 / 3)
    assert row["gain_low"] == -1.0 and row["gain_high"] == 0.5  # of all drawn alike


def test_grid_puts_each_model_in_its_row(outcomes: list[Outcome]) -> None:
    grid = Image.open(io.BytesIO(figures.sample_grid(outcomes, np.array([0, 2]), tile=64)))
    top = grid.height - 3 * 64  # the columns' numbers
    levels = [grid.getpixel((grid.width - 10, top + 32 + 64 * row)) for row in range(3)]
    assert levels == [(0, 0, 0), (80, 80, 80), (160, 160, 160)]


def test_page_embeds_the_pictures_and_escapes_text(outcomes: list[Outcome], tmp_path: Path) -> None:
    names = ("loss", "r_positive", "r_negative", "implicit_accuracy", "saturated")
    lines = [{"step": step, **dict.fromkeys(names, 1.0 / step)} for step in (1, 2)]
    pictures = {
        "scores.png": figures.score_histograms(
            np.array([1.0, 2.0, 3.0]), np.full(3, 2.0), outcomes
        ),
        "training.png": figures.training_curves({"SFT": lines, "TGO": lines}),
    }
    page = report.write_report(
        tmp_path / "report",
        outcomes,
        pictures,
        figures.gallery(outcomes, np.array([0, 2])),
        title="A & B",
        facts=["a < b"],
        commands="tglo <train>",
    )
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2 + 2 * 3
    assert text.count("a &lt;handwritten&gt; zero</figcaption>") == 2
    assert "<p>A &amp; B, pre-trained" in text
    assert "a &lt; b" in text and "tglo &lt;train&gt;" in text
    for name in pictures:
        Image.open(io.BytesIO((page.parent / name).read_bytes())).verify()


@pytest.mark.parametrize("model", settings.MODELS.values(), ids=list(settings.MODELS))
def test_written_settings_are_a_valid_configuration(
    model: settings.DemoModel, tmp_path: Path
) -> None:
    path = tmp_path / "tgo.toml"
    folder = tmp_path / 'with "quotes" and spaces'
    path.write_text(settings.toml(settings.Demo(folder, model, 3, model.amounts), "tgo"))
    config = load_config(path)
    assert config.seed == 3
    assert config.model.path == str(model.base)
    assert config.data.manifest == folder / "data" / "scored.csv"
    assert config.optimizer.steps == model.amounts.steps
    assert config.objective.name == "tgo"
