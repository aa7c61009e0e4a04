"""`tglo score`: a manifest with the scores that scorers give its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tglo.data.manifest import read_manifest, write_manifest
from tglo.devices import process
from tglo.rewards import (
    load_scorer,
    mix,
    named_scorers,
    parse_mixture,
    score_manifest,
    search_working_folder,
)
from tglo.rewards.mixture import Scale
from tglo.settings import COUNT, check_limits


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
    check_limits({"batch_size": batch_size}, {"batch_size": COUNT})
    texts = named_scorers([scorers] if isinstance(scorers, str) else scorers)
    if not texts:
        raise ValueError("give at least one scorer")
    weights = parse_mixture(mixture, texts) if mixture else {}
    if output is None:
        beside = manifest.with_name(f"{manifest.stem}-scored{manifest.suffix}")
        output = manifest / "scored.csv" if manifest.is_dir() else beside
    search_working_folder()
    rows = read_manifest(manifest, require_scores=False)
    rows.check_output(output)
    loaded = {name: load_scorer(text, device=device, dtype=dtype) for name, text in texts.items()}
    partial = output.with_name(f".{output.name}.partial")
    scored = score_manifest(rows, loaded, batch_size=batch_size, partial=partial)
    if weights:
        columns = {
            name: np.array([row.extra[name] for row in scored], dtype=np.float64)
            for name in weights
        }
        mixed = mix(columns, weights, mixture_scale).tolist()
        scored = scored.with_rows(
            replace(row, score=score) for row, score in zip(scored, mixed, strict=True)
        )
    write_manifest(output, scored)
    partial.unlink(missing_ok=True)
    return output
