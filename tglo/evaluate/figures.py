"""The pictures of an evaluation: win rates with intervals, distributions of scores, samples."""

from __future__ import annotations

import io
import re
import textwrap
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
PANEL = (3.3, 2.5)  # inches
LABEL_WIDTH = 28  # characters
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
    first = next(iter(prompt_sets.values()))
    scorers, models = list(first["win_rates"]), [m for m in first["models"] if m != BASE]
    bars = len(scorers) * len(models)
    size = (9.0, len(prompt_sets) * (0.9 + max(0.28 * bars, 0.45 * len(scorers))) + 0.5)
    figure, panels = panel_grid(size, rows=len(prompt_sets), sharex=True)
    for axes, (name, content) in zip(panels[:, 0], prompt_sets.items(), strict=True):
        height = 0.8 / max(1, len(models))
        for number, model in enumerate(models):
            rates = [content["win_rates"][scorer][model][BASE] for scorer in scorers]
            values = np.array([rate["value"] for rate in rates])
            ends = np.array([[rate["low"], rate["high"]] for rate in rates]).T
            scores = content["models"][model]["scores"]
            axes.barh(
                np.arange(len(scorers)) - 0.4 + (number + 0.5) * height,
                values,
                height * 0.88,
                xerr=np.abs(ends - values),
                capsize=3,
                color=colour(number + 1),
                hatch=["//" if scores[scorer]["trained_on"] else "" for scorer in scorers],
            )
        axes.axvline(0.5, color="black", linewidth=0.8)
        names = [_wrapped(name, LABEL_WIDTH) for name in labels(scorers)]
        axes.set_yticks(range(len(scorers)), names)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set(xlim=(0, 1), title=_wrapped(name, 60))
    panels[-1, 0].set_xlabel(f"win rate against {BASE}, 95% interval")
    _legend(figure, models, 1, any_trained_on(prompt_sets))
    return png(figure)


def any_trained_on(prompt_sets: Results) -> bool:
    """Return whether a reward that a model was trained on is among the scorers."""
    return any(
        score["trained_on"]
        for content in prompt_sets.values()
        for entry in content["models"].values()
        for score in entry["scores"].values()
    )


def histograms(sets: Sequence[PromptSet], samples: ModelSamples, scorers: Sequence[str]) -> bytes:
    """Draw, as PNG, a row for each prompt set and a column for each scorer, all models in a panel."""
    size = (max(5.0, PANEL[0] * len(scorers)), PANEL[1] * len(sets) + 0.4)
    figure, panels = panel_grid(size, len(sets), len(scorers))
    for line, chosen in zip(panels, sets, strict=True):
        for axes, scorer, label in zip(line, scorers, labels(scorers), strict=True):
            _histogram(axes, chosen, samples, scorer)
            axes.set_title(_wrapped(f"{chosen.name}: {label}", 34), fontsize=10)
    _legend(figure, list(samples.scores), 0)
    return png(figure)


def histogram(chosen: PromptSet, samples: ModelSamples, scorer: str) -> bytes:
    """Draw one panel of `histograms`, as PNG, without title and legend."""
    figure, [[axes]] = panel_grid((4.4, 2.5))
    _histogram(axes, chosen, samples, scorer)
    return png(figure, dpi=140)


def _histogram(axes: Any, chosen: PromptSet, samples: ModelSamples, scorer: str) -> None:
    rows = samples.rows(chosen.prompts)
    scores = {m: mine[scorer][rows].ravel() for m, mine in samples.scores.items()}
    bins = _bins(np.concatenate([*scores.values()]))
    for number, values in enumerate(scores.values()):
        outline(axes, values, bins, colour(number))
    axes.set(xlabel="score", ylabel="videos" if samples.frames else "images")
    axes.yaxis.get_major_locator().set_params(integer=True)


def _legend(figure: Any, models: Sequence[str], first: int, hatched: bool = False) -> None:
    """Put the models' colours above all panels. first: the number of the first of them."""
    from matplotlib.patches import Patch

    patches = [
        Patch(color=colour(first + place), label=_plain(model))
        for place, model in enumerate(models)
    ]
    if hatched:
        patches.append(
            Patch(facecolor="white", edgecolor="black", hatch="//", label="trained on this reward")
        )
    figure.legend(handles=patches, loc="outside upper center", ncols=4, frameon=False)


def labels(scorers: Sequence[str]) -> list[str]:
    """Return names that fit below bars: of module:function the function, where no two are the same."""
    short = [scorer.split(":")[1] if _OWN.fullmatch(scorer) else scorer for scorer in scorers]
    return short if len(set(short)) == len(short) else list(scorers)


def outline(axes: Any, values: Floats, bins: Floats, colour: str, label: str | None = None) -> None:
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


def strip(images: Sequence[Image.Image], tile: int, gap: int = 3) -> Image.Image:
    """Return images beside each other, as a video's frames. tile: pixels of a side with the gap."""
    fitted = [_fit(image, tile - gap) for image in images]
    page = Image.new("RGB", (tile * len(fitted), max(image.height for image in fitted)), "white")
    for place, image in enumerate(fitted):
        page.paste(image, (tile * place, 0))
    return page


def _fit(image: Image.Image, tile: int) -> Image.Image:
    """Scale an image to fit a tile; small ones keep their pixels' edges."""
    scale = tile / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    filtering = Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS
    return image.resize(size, filtering)


def _wrapped(text: str, width: int) -> str:
    """Return text in lines of so many characters, for a place that is no wider."""
    return _plain("\n".join(textwrap.wrap(text, width)))


def _plain(text: str) -> str:
    """Return text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def png(picture: Any, dpi: int = 110) -> bytes:
    """Return the PNG bytes of an image or a matplotlib figure."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, format="PNG")
    else:
        picture.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
