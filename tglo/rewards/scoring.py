"""`tglo score`: a manifest with the scores that scorers give its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tglo.data.manifest import Manifest, read_manifest, write_manifest
from tglo.devices import process
from tglo.rewards import (
    load_scorer,
    mix,
    parse_mixture,
    score_manifest,
    scorer_name,
    search_working_folder,
)
from tglo.rewards.mixture import Scale


def score_file(
    manifest: Path,
    scorers: str | Sequence[str],
    output: Path | None = None,
    batch_size: int = 32,
    *,
    mixture: str = "",
    mixture_scale: Scale = "none",
    device: str = "auto",
    dtype: str = "fp32",
) -> Path:
    """Score the images of ``manifest`` and write it with a column per scorer; returns the path.

    scorers: as `load_scorer` takes them (a module in the working folder is found). All of them
        score an image when it is decoded. A column has its scorer's name.
    mixture: NAME=WEIGHT,... of these scorers, whose weighted sum is the score column; the first
        scorer's numbers by default. mixture_scale: see `tglo.rewards.mix`.
    output: beside the manifest as NAME-scored by default (scored.csv inside a folder). An
        interrupted call goes on where it was.

    Raises ValueError for two scorers of one name, a mixture of others, or more than one process, and
    what `load_scorer`, `read_manifest`, `score_manifest` and `mix` raise. All but the errors of the last
    are known before an image is scored.
    """
    processes = process()[1]
    if processes > 1:
        raise ValueError(
            f"scoring is for one process, and WORLD_SIZE is {processes}; start it "
            "without torchrun, or split the manifest and score each part"
        )
    texts = [scorers] if isinstance(scorers, str) else list(scorers)
    names = [scorer_name(text) for text in texts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(
            f"scorer {twice[0]} is given twice; leave one" if twice else "give at least one scorer"
        )
    weights = parse_mixture(mixture, names) if mixture else None
    if output is None:
        scored = manifest.with_name(f"{manifest.stem}-scored{manifest.suffix}")
        output = manifest / "scored.csv" if manifest.is_dir() else scored
    search_working_folder()
    rows = read_manifest(manifest, require_scores=False)
    rows.check_output(output)
    loaded = {
        name: load_scorer(text, device=device, dtype=dtype)
        for name, text in zip(names, texts, strict=True)
    }
    partial = output.with_name(f".{output.name}.partial")
    scored_rows = score_manifest(rows, loaded, batch_size=batch_size, partial=partial)
    if weights is not None:
        columns = {
            name: np.array([row.extra[name] for row in scored_rows], dtype=np.float64)
            for name in weights
        }
        scored_rows = _with_scores(scored_rows, mix(columns, weights, mixture_scale).tolist())
    write_manifest(output, scored_rows)
    partial.unlink(missing_ok=True)
    return output


def _with_scores(manifest: Manifest, scores: list[float]) -> Manifest:
    pairs = zip(manifest, scores, strict=True)
    return manifest.with_rows(replace(row, score=score) for row, score in pairs)
