"""`tglo score`: a manifest with the scores that a scorer gives its images."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tglo.data.manifest import read_manifest, write_manifest
from tglo.rewards import load_scorer, score_manifest


def score_file(
    manifest: Path, scorer: str, output: Path | None = None, batch_size: int = 32
) -> Path:
    """Score the images of ``manifest`` and write it with a score column; returns the path.

    scorer: a name in tglo.rewards, or module:function (a module in the working folder is found).
    output: beside the manifest as NAME-scored by default (scored.csv inside a folder). An
    interrupted call goes on where it was. Errors as of read_manifest and score_manifest.
    """
    if output is None:
        scored = manifest.with_name(f"{manifest.stem}-scored{manifest.suffix}")
        output = manifest / "scored.csv" if manifest.is_dir() else scored
    sys.path.insert(0, os.getcwd())
    rows = read_manifest(manifest, require_scores=False)
    rows.check_output(output)
    partial = output.with_name(f".{output.name}.partial")
    scored_rows = score_manifest(rows, load_scorer(scorer), batch_size=batch_size, partial=partial)
    write_manifest(output, scored_rows)
    partial.unlink(missing_ok=True)
    return output
