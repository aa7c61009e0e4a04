"""The flags of `tglo look`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional

from tglo.console.verbosity import note, show
from tglo.settings import ManifestOptions

if TYPE_CHECKING:
    from tglo.train import TrainConfig


def look(
    manifest: Positional[Path],
    output: Path = Path("look.html"),
    config: Path | None = None,
    threshold: Path | None = None,
    baseline: Literal["percentile", "mean", "oracle", "ridge"] | None = None,
    percentile: float | None = None,
    score_scale: Literal["none", "std", "mad", "iqr"] | None = None,
    per_prompt: Annotated[bool, FlagCreatePairsOff] = False,
    kappa: float | None = None,
    confidence: float | None = None,
    cache: Path | None = None,
    resolution: int | None = None,
    reading: OmitArgPrefixes[ManifestOptions] = ManifestOptions(),
) -> dict[str, Any]:
    """Look at a data set before it is trained on: scores, threshold, best and worst images, repeats, conflicts,
    prompts, aspect buckets, and what the settings would do, on one page that a browser opens from disk.

    Args:
        manifest: The manifest; rows without a score are told, not refused.
        output: HTML file to write.
        config: A run's TOML file, which answers what no flag says and tells what the run would do.
        threshold: File that `tglo threshold` wrote; else the threshold is estimated, by the next five.
        baseline: As of `tglo threshold`; percentile by default.
        percentile: Percentile of the scores, 50 by default.
        score_scale: Unit of the distance from the threshold, none by default.
        per_prompt: A percentile for each prompt, shrunk towards the global one.
        kappa: Strength of that shrinkage, in samples, 10 by default.
        confidence: Constant c of the weight 1 + c |s - tau|, 5 by default; inf: |s - tau|.
        cache: Folder that `tglo cache` made: embeddings for ridge, buckets, and rows that a run has.
        resolution: Side of a square image in pixels, as `tglo cache` takes it, where there is no cache; 1024 is
            assumed.
        reading: How the manifest is read.
    """
    from tglo.data.manifest import read_manifest
    from tglo.look import survey
    from tglo.look.page import write_page
    from tglo.pages.output import check_page

    check_page(output, "--output", "look.html")
    chosen = {
        "threshold": threshold,
        "baseline": baseline,
        "percentile": percentile,
        "score_scale": score_scale,
        "per_prompt": per_prompt or None,
        "kappa": kappa,
        "cache": cache,
    }
    settings = _settings(config, manifest, chosen, confidence, reading)
    names = [option.name for option in fields(ManifestOptions)]
    with _without_collections():
        rows = read_manifest(
            manifest,
            require_scores=False,
            **{name: getattr(settings.data, name) for name in names},
        )
        found = survey(rows, settings, is_run=config is not None, resolution=resolution)
        write_page(output, rows, found)
    show(found.text())
    note(f"wrote {output}")
    return {"output": output, **found.plain()}


@contextmanager
def _without_collections() -> Iterator[None]:
    """Spare Python its searches for garbage among a million rows, a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _settings(
    path: Path | None,
    manifest: Path,
    chosen: dict[str, Any],
    confidence: float | None,
    reading: ManifestOptions,
) -> TrainConfig:
    """Return the run's configuration with the flags that were given in it. ValueError for what cannot be."""
    from tglo.settings import check_limits
    from tglo.threshold.baselines import check_baseline
    from tglo.train import DataConfig, TrainConfig, load_config
    from tglo.train.config_limits import LIMITS

    config = TrainConfig() if path is None else load_config(path)
    given = {name: value for name, value in chosen.items() if value is not None}
    estimates = given.keys() - {"threshold", "cache"}
    if "threshold" in given and estimates:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(estimates))
        raise ValueError(
            f"--threshold gives a threshold that is there, and {flags} estimate one; leave one out"
        )
    if "threshold" in given:  # what a run would estimate does not count
        plain = DataConfig()
        given |= {
            name: getattr(plain, name) for name in ("baseline", "percentile", "per_prompt", "kappa")
        }
    elif estimates:
        given["threshold"] = None
    given |= {
        option.name: getattr(reading, option.name)
        for option in fields(ManifestOptions)
        if getattr(reading, option.name) != option.default
    }
    data = replace(config.data, manifest=manifest, **given)
    objective = config.objective
    if confidence is not None:
        objective = replace(objective, confidence=confidence)
    numbers = {"data.percentile": data.percentile, "data.kappa": data.kappa}
    check_limits({**numbers, "objective.confidence": float(objective.confidence)}, LIMITS)
    check_baseline(data.baseline, data.percentile, data.per_prompt)
    return replace(config, data=data, objective=objective)
