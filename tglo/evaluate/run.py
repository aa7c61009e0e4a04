"""`tglo evaluate`: sample and score every model, compare them, write tables, pictures and a page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tglo.evaluate import figures, gallery, tables, videos
from tglo.evaluate.latex import latex
from tglo.evaluate.page import page
from tglo.evaluate.results import Results, results
from tglo.evaluate.samples import ModelSamples, check_models, check_scorer, generate, score
from tglo.evaluate.settings import BASE, Evaluation
from tglo.files import disk_space, locked, remove_leftovers, write_bytes, write_json
from tglo.generation.prompts import PromptSet, load_prompts
from tglo.redaction import redacted_plain
from tglo.rewards import load_scorer

log = logging.getLogger("tglo")
FORMAT, VERSION = "tglo.evaluation", 1
COLUMNS = 8  # prompts of a set that are shown side by side


def evaluate(
    settings: Evaluation, output: Path, *, rank: int = 0, world_size: int = 1
) -> Results | None:
    """Compare the models; returns what evaluation.json holds, or None in a process other than 0.

    Processes share the sampling; process 0 scores. What is there already is kept: after an interruption
    the same call ends with the same numbers, and a call with more models, prompts, scorers or a larger
    count makes what is missing. ValueError for settings that cannot be, before anything is sampled, for
    images or scores in `output` that belong to other settings, and while another evaluation fills
    `output`; DiskFull.
    """
    settings.check()
    sets = [load_prompts(name, path) for name, path in settings.prompts.items()]
    for chosen in sets:
        if len(chosen.prompts) < 2:
            raise ValueError(f"{chosen.name} has one prompt; an interval needs at least 2")
    frames = check_models(settings)
    if rank == 0:
        for name, text in settings.scorers.items():
            # A wrong name, or weights that are missing, are known before hours of sampling.
            check_scorer(
                name, load_scorer(text, device=settings.device, dtype=settings.dtype), frames
            )
    prompts = tuple(dict.fromkeys(prompt for chosen in sets for prompt in chosen.prompts))
    log.info(
        "evaluate: %d models, %d prompts, %d %s", len(settings.names), len(prompts),
        len(settings.names) * len(prompts) * settings.count, "videos" if frames else "images",
    )  # fmt: skip
    if rank != 0:
        generate(settings, prompts, output, frames, rank=rank, world_size=world_size)
        return None
    busy = f"{output} is in use by another evaluation; wait for it, stop it, or give another folder"
    with disk_space(output), locked(output / ".evaluate.lock", busy):
        for folder in (output, output / "diversity", *output.glob("scores/*")):
            remove_leftovers(folder)
        samples = generate(settings, prompts, output, frames, rank=rank, world_size=world_size)
        score(settings, samples, output)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "settings": _plain(settings, samples),
            "prompt_sets": results(settings, sets, samples),
        }
        write_bytes(output / "samples.csv", _samples_csv(sets, samples, settings).encode())
        _write_report(settings, sets, samples, content, output)
        write_json(output / "evaluation.json", content)
    return content


def _plain(settings: Evaluation, samples: ModelSamples) -> dict[str, Any]:
    plain = redacted_plain(asdict(settings))
    options, scored = plain.pop("options"), plain.pop("videos")
    lora = plain.pop("lora")
    if samples.frames:
        plain |= {"score_frames": scored["frames"], "of_frames": scored["of_frames"]}
    if lora is not None:
        plain["lora"] = str(lora)
    return {
        **plain,
        "prompts": {name: str(path) for name, path in settings.prompts.items()},
        "size": [options.pop("height"), options.pop("width")],
        **options,
    }


def _write_report(
    settings: Evaluation,
    sets: Sequence[PromptSet],
    samples: ModelSamples,
    content: Results,
    output: Path,
) -> None:
    found = tables.tables(content["prompt_sets"])
    write_bytes(output / "tables.md", tables.markdown(found).encode())
    write_bytes(output / "tables.tex", latex(found).encode())
    write_bytes(output / "estimates.csv", tables.long_csv(content["prompt_sets"]).encode())
    scorers = list(settings.scorers)
    write_bytes(output / "scores.png", figures.histograms(sets, samples, scorers))
    if settings.models:
        write_bytes(output / "win_rates.png", figures.win_rates(content["prompt_sets"]))
    shown = {chosen.name: _shown(chosen) for chosen in sets}
    clips = {name: videos.shown(samples, p) for name, p in shown.items() if samples.frames}
    for name, prompts in shown.items():
        sheet = videos.sheets(clips[name]) if clips else figures.side_by_side(samples, prompts)
        write_bytes(output / f"samples-{name}.png", sheet)
    embed = videos.are_embedded([one for found in clips.values() for one in found], output)
    galleries = {
        name: videos.gallery(clips[name], output, embed)
        if clips
        else gallery.rows(samples, prompts)
        for name, prompts in shown.items()
    }
    noun = ("video" if clips else "image") + "s" * (settings.count > 1)
    facts = [
        *(f"{name}: {settings.models.get(name, settings.base)}" for name in settings.names),
        *([] if settings.lora is None else [f"{BASE} has the LoRA {settings.lora}"]),
        *(f"{name} is given {text!r} before prompts" for name, text in settings.prefixes.items()),
        f"{settings.count} {noun} of each prompt, {settings.options}, {settings.dtype}, "
        f"seed {settings.seed}",
        f"bootstrap intervals from {settings.resamples} resamples of the prompts",
        *(videos.facts(settings, samples, embed) if clips else ()),
    ]
    histograms = {c.name: [figures.histogram(c, samples, s) for s in scorers] for c in sets}
    text = page(facts, content["prompt_sets"], histograms, galleries, videos=bool(clips))
    write_bytes(output / "report.html", text.encode())


def _shown(chosen: PromptSet) -> list[str]:
    """Return the prompts of a set that are shown, evenly from first to last."""
    spread = np.linspace(0, len(chosen.prompts) - 1, COLUMNS).round().astype(int)
    return [chosen.prompts[place] for place in dict.fromkeys(spread.tolist())]


def _samples_csv(sets: Sequence[PromptSet], samples: ModelSamples, settings: Evaluation) -> str:
    """Return every image of every set with its scores, paired by (prompt, index) over the models."""
    header = ["prompt_set", "category", "prompt", "index", "model", "image"]
    lines: list[Sequence[Any]] = [[*header, *settings.scorers]]
    for chosen in sets:
        categories = chosen.categories or ("",) * len(chosen.prompts)
        rows = samples.rows(chosen.prompts)
        for prompt, category, row in zip(chosen.prompts, categories, rows, strict=True):
            for index in range(samples.count):
                for model in settings.names:
                    image = f"images/{model}/{samples.image(model, row, index).image}"
                    mine = samples.scores[model]
                    scores = [float(mine[scorer][row, index]) for scorer in settings.scorers]
                    lines.append([chosen.name, category, prompt, index, model, image, *scores])
    return tables.csv_text(lines)
