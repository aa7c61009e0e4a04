"""The pictures of an evaluation: win rates with intervals, distributions of scores, samples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tglo.data.images import decode_image
from tglo.evaluate.results import Results
from tglo.evaluate.samples import Samples
from tglo.evaluate.settings import BASE
from tglo.generation.prompts import PromptSet

COLOURS = ("#8a8a8a", "#1f6fb4", "#d98c21", "#3c8c3c", "#b04040", "#7b5aa6", "#20908d", "#a05a2c")
TILE = 192  # pixels


def colour(number: int) -> str:
    """Of model `number`; the base is grey."""
    return COLOURS[number % len(COLOURS)]


def win_rates(prompt_sets: Results) -> bytes:
    """PNG: a panel for each prompt set, a group of bars for each scorer, a bar for each trained model;
    hatched where the model was trained on the scorer.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.9 * len(prompt_sets)), layout="constrained")
    panels = figure.subplots(len(prompt_sets), 1, squeeze=False)[:, 0]
    for axes, (name, content) in zip(panels, prompt_sets.items(), strict=True):
        scorers = list(content["win_rates"])
        models = [model for model in content["models"] if model != BASE]
        width = 0.8 / max(1, len(models))
        for number, model in enumerate(models):
            rates = [content["win_rates"][scorer][model][BASE] for scorer in scorers]
            values = np.array([rate["value"] for rate in rates])
            ends = np.array([[rate["low"], rate["high"]] for rate in rates]).T
            marks = [content["models"][model]["scores"][s]["trained_on"] for s in scorers]
            bars = axes.bar(
                np.arange(len(scorers)) - 0.4 + (number + 0.5) * width,
                values,
                width * 0.92,
                yerr=np.abs(ends - values),
                capsize=3,
                color=colour(number + 1),
                label=_plain(model),
            )
            for bar, mark in zip(bars, marks, strict=True):
                bar.set_hatch("//" if mark else "")
        axes.axhline(0.5, color="black", linewidth=0.8)
        axes.set_xticks(range(len(scorers)), [_plain(scorer) for scorer in scorers])
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set(ylim=(0, 1.2), ylabel=f"win rate against {BASE}", title=_plain(name))
        axes.legend(frameon=False, ncols=4, loc="upper left")
    return _png(figure)


def histograms(sets: Sequence[PromptSet], samples: Samples, scorers: Sequence[str]) -> bytes:
    """PNG: a row for each prompt set, a column for each scorer, all models in a panel."""
    from matplotlib.figure import Figure

    size = (max(4.5, 3.2 * len(scorers)), 2.7 * len(sets))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(sets), len(scorers), squeeze=False)
    for line, chosen in zip(panels, sets, strict=True):
        rows = samples.rows(chosen.prompts)
        for axes, scorer in zip(line, scorers, strict=True):
            scores = {m: mine[scorer][rows].ravel() for m, mine in samples.scores.items()}
            bins = _bins(np.concatenate([*scores.values()]))
            for number, (model, values) in enumerate(scores.items()):
                style: dict[str, Any] = {"bins": bins, "color": colour(number)}
                axes.hist(values, histtype="stepfilled", alpha=0.2, **style)
                axes.hist(values, histtype="step", linewidth=1.4, label=_plain(model), **style)
            axes.set(title=f"{_plain(chosen.name)}: {_plain(scorer)}", xlabel="score")
    panels[0, 0].legend(frameon=False)
    return _png(figure)


def _bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of 40 bins, also where all values are equal."""
    low, high = float(values.min()), float(values.max())
    least = 1e-9 * max(abs(low), abs(high)) or 1.0
    return np.linspace(low, low + max(high - low, least), 41)


def side_by_side(samples: Samples, prompts: Sequence[str]) -> bytes:
    """PNG: a row for each model, a column for each of `prompts`, under the same seed."""
    text = max(len(model) for model in samples.manifests)
    label, top = 12 + 11 * text, 24
    size = (label + TILE * len(prompts), top + TILE * len(samples.manifests))
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for column in range(len(prompts)):
        draw.text((label + TILE * column + 4, 4), str(column + 1), fill="black", font_size=15)
    for line, (model, manifest) in enumerate(samples.manifests.items()):
        height = top + TILE * line
        draw.text((6, height + TILE // 2 - 9), model, fill=colour(line), font_size=18)
        for column, row in enumerate(samples.rows(prompts)):
            tile = _fit(decode_image(manifest.open_image(samples.image(model, row, 0))))
            page.paste(tile, (label + TILE * column + (TILE - tile.width) // 2, height))
    buffer = io.BytesIO()
    page.save(buffer, format="PNG")
    return buffer.getvalue()


def _fit(image: Image.Image) -> Image.Image:
    """The image scaled to fit a tile; small ones keep their pixels' edges."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    filtering = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS
    return image.resize(size, filtering)


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
