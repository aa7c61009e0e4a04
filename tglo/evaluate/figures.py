"""The pictures of an evaluation: win rates with intervals, distributions of scores, samples."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tglo.data.images import decode_image
from tglo.evaluate.results import Results
from tglo.evaluate.samples import Floats, ModelSamples
from tglo.evaluate.settings import BASE
from tglo.generation.prompts import PromptSet

COLOURS = ("#8a8a8a", "#1f6fb4", "#d98c21", "#3c8c3c", "#b04040", "#7b5aa6", "#20908d", "#a05a2c")
TILE = 192  # pixels
_OWN = re.compile(r"[\w.]+:\w+")  # a scorer of the user's


def colour(number: int) -> str:
    """Return the colour of model `number`; the base, 0, is grey."""
    return COLOURS[number % len(COLOURS)]


def panel_grid(
    size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Any, Any]:
    """Return an empty matplotlib figure of `size` inches and its axes, (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def win_rates(prompt_sets: Results) -> bytes:
    """Draw, as PNG, a panel for each prompt set, a group of bars for each scorer, a bar for each trained model;
    hatched where the model was trained on the scorer.
    """
    figure, panels = panel_grid((9, 2.9 * len(prompt_sets)), rows=len(prompt_sets))
    for axes, (name, content) in zip(panels[:, 0], prompt_sets.items(), strict=True):
        scorers = list(content["win_rates"])
        models = [model for model in content["models"] if model != BASE]
        width = 0.8 / max(1, len(models))
        for number, model in enumerate(models):
            rates = [content["win_rates"][scorer][model][BASE] for scorer in scorers]
            values = np.array([rate["value"] for rate in rates])
            ends = np.array([[rate["low"], rate["high"]] for rate in rates]).T
            scores = content["models"][model]["scores"]
            axes.bar(
                np.arange(len(scorers)) - 0.4 + (number + 0.5) * width,
                values,
                width * 0.92,
                yerr=np.abs(ends - values),
                capsize=3,
                color=colour(number + 1),
                label=_plain(model),
                hatch=["//" if scores[scorer]["trained_on"] else "" for scorer in scorers],
            )
        axes.axhline(0.5, color="black", linewidth=0.8)
        axes.set_xticks(range(len(scorers)), [_plain(name) for name in labels(scorers)])
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set(ylim=(0, 1.2), ylabel=f"win rate against {BASE}", title=_plain(name))
        axes.legend(frameon=False, ncols=4, loc="upper left")
    return png(figure)


def histograms(sets: Sequence[PromptSet], samples: ModelSamples, scorers: Sequence[str]) -> bytes:
    """Draw, as PNG, a row for each prompt set and a column for each scorer, all models in a panel."""
    size = (max(4.5, 3.2 * len(scorers)), 2.7 * len(sets))
    figure, panels = panel_grid(size, len(sets), len(scorers))
    for line, chosen in zip(panels, sets, strict=True):
        rows = samples.rows(chosen.prompts)
        for axes, scorer, label in zip(line, scorers, labels(scorers), strict=True):
            scores = {m: mine[scorer][rows].ravel() for m, mine in samples.scores.items()}
            bins = _bins(np.concatenate([*scores.values()]))
            for number, (model, values) in enumerate(scores.items()):
                outline(axes, values, bins, colour(number), _plain(model))
            axes.set(title=f"{_plain(chosen.name)}: {_plain(label)}", xlabel="score")
    panels[0, 0].legend(frameon=False)
    return png(figure)


def labels(scorers: Sequence[str]) -> list[str]:
    """Return names that fit below bars: of module:function the function, where no two are the same."""
    short = [scorer.split(":")[1] if _OWN.fullmatch(scorer) else scorer for scorer in scorers]
    return short if len(set(short)) == len(short) else list(scorers)


def outline(axes: Any, values: Floats, bins: Floats, colour: str, label: str) -> None:
    """Draw a filled histogram that lets others shine through."""
    axes.hist(values, bins=bins, color=colour, histtype="stepfilled", alpha=0.2)
    axes.hist(values, bins=bins, color=colour, histtype="step", linewidth=1.4, label=label)


def _bins(values: Floats) -> Floats:
    """Return the edges of 40 bins, also where all values are equal."""
    low, high = float(values.min()), float(values.max())
    least = 1e-9 * max(abs(low), abs(high)) or 1.0
    return np.linspace(low, low + max(high - low, least), 41)


def side_by_side(samples: ModelSamples, prompts: Sequence[str]) -> bytes:
    """Draw, as PNG, a row for each model and a column for each of `prompts`, under the same seed."""
    rows = {
        model: [
            decode_image(manifest.open_image(samples.image(model, row, 0)))
            for row in samples.rows(prompts)
        ]
        for model, manifest in samples.manifests.items()
    }
    return png(image_grid(rows, [colour(line) for line in range(len(rows))]))


def image_grid(
    rows: Mapping[str, Sequence[Image.Image]],
    colours: Sequence[str],
    tile: int = TILE,
    row: int | None = None,
    gap: int = 0,
) -> Image.Image:
    """Return a page of images: a named row each, under numbered columns. tile: pixels of a side; row: of a
    row's height, a tile's by default; gap: between images.
    """
    label, top = 12 + 11 * max(map(len, rows)), 24
    columns, row = max(map(len, rows.values())), row or tile
    page = Image.new("RGB", (label + tile * columns, top + row * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for column in range(columns):
        draw.text((label + tile * column + 4, 4), str(column + 1), fill="black", font_size=15)
    for line, ((name, images), fill) in enumerate(zip(rows.items(), colours, strict=True)):
        height = top + row * line
        draw.text((6, height + row // 2 - 9), name, fill=fill, font_size=18)
        for column, image in enumerate(images):
            fitted = _fit(image, tile - gap)
            page.paste(fitted, (label + tile * column + (tile - fitted.width) // 2, height))
    return page


def _fit(image: Image.Image, tile: int) -> Image.Image:
    """Scale an image to fit a tile; small ones keep their pixels' edges."""
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    filtering = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS
    return image.resize(size, filtering)


def _plain(text: str) -> str:
    """Return text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def png(picture: Any) -> bytes:
    """Return the PNG bytes of an image or a matplotlib figure."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, format="PNG")
    else:
        picture.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
