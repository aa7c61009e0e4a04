"""`tglo score`: a manifest with the scores that scorers give its images."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from tglo.data.errors import ManifestError
from tglo.data.manifest import check_rows, read_manifest, write_manifest
from tglo.data.manifest_writing import WRITTEN
from tglo.devices import process
from tglo.files import remove_leftovers
from tglo.rewards import (
    load_scorer,
    mix,
    named_scorers,
    parse_mixture,
    score_manifest,
    search_working_folder,
)
from tglo.rewards.mixture import Scale
from tglo.settings import COUNT, ManifestOptions, check_limits

log = logging.getLogger("tglo")


def score_file(
    manifest: Path,
    scorers: str | Sequence[str],
    output: Path | None = None,
    batch_size: int = 32,
    *,
    mixture: str = "",
    mixture_scale: Scale = "none",
    reading: ManifestOptions = ManifestOptions(),
    max_bad_fraction: float = 0.0,
    device: str = "auto",
    dtype: str = "fp32",
) -> Path:
    """Score the images of ``manifest`` and write it with a column per scorer; returns the path.

    scorers: as `load_scorer` takes them (a module in the working folder is found). All of them
        score an image when it is decoded. A column has its scorer's name.
    mixture: NAME=WEIGHT,... of these scorers, whose weighted sum is the score column; the first
        scorer's numbers by default. mixture_scale: see `tglo.rewards.mix`.
    reading: how the manifest is read. The result has the columns prompt, image and score.
    max_bad_fraction: see `score_manifest`.
    output: beside the manifest as NAME-scored by default (scored.csv inside a folder). Image paths
        stay as they are, and with them sample ids: where the output is elsewhere, it is read with
        the `root` that is logged. An interrupted call goes on where it was.

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
    output = output or _default_output(manifest)
    search_working_folder()
    rows = read_manifest(manifest, **asdict(reading), require_scores=False)
    rows.check_output(output, elsewhere=True)
    if os.path.realpath(output) == os.path.realpath(manifest) and any(
        r.score is not None for r in rows
    ):
        raise ManifestError(
            f"{output} is the manifest itself, whose scores would be lost; give another --output"
        )
    check_rows(output, rows)
    _make_writable(output.parent)
    loaded = {name: load_scorer(text, device=device, dtype=dtype) for name, text in texts.items()}
    partial = output.with_name(f".{output.name}.partial")
    for path in (output, partial):  # by name: the folder is the user's
        remove_leftovers(path.parent, path.name)
    scored = score_manifest(
        rows, loaded, batch_size, partial=partial, max_bad_fraction=max_bad_fraction
    )
    if weights:
        columns = {
            name: np.array([row.extra[name] for row in scored], dtype=np.float64)
            for name in weights
        }
        mixed = mix(columns, weights, mixture_scale).tolist()
        scored = scored.with_rows(
            replace(row, score=score) for row, score in zip(scored, mixed, strict=True)
        )
    write_manifest(output, scored.rows)
    partial.unlink(missing_ok=True)
    if os.path.realpath(output.parent) != rows.root:
        log.info("the images of %s are found with --root %s", output, rows.root)
    return output


def _default_output(manifest: Path) -> Path:
    if manifest.is_dir():
        return manifest / "scored.csv"
    suffix = manifest.suffix if manifest.suffix.lower() in WRITTEN else ".csv"
    return manifest.with_name(f"{manifest.stem}-scored{suffix}")


def _make_writable(folder: Path) -> None:
    """Make the output's folder. ManifestError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ManifestError(
            f"nothing can be written in {folder}; give --output FILE in another folder (with --root its "
            "images are found from there)"
        )
