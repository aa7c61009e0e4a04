"""The flags of `tglo threshold`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from tglo.settings import ManifestOptions


def threshold(
    manifest: Positional[Path],
    output: Path = Path("threshold.json"),
    percentile: float = 50.0,
    score_scale: Literal["none", "std", "mad", "iqr"] = "none",
    per_prompt: bool = False,
    kappa: float = 10.0,
    confidence: float = 5.0,
    proxy: Path | None = None,
    reading: OmitArgPrefixes[ManifestOptions] = ManifestOptions(),
) -> None:
    """Estimate the threshold of a scored manifest, show what it does, and freeze it.

    Args:
        manifest: The scored manifest.
        output: JSON file to write.
        percentile: Percentile of the scores.
        score_scale: Unit of the distance from the threshold: none is the paper's.
        per_prompt: A threshold for each prompt, shrunk towards the global one.
        kappa: Strength of that shrinkage, in samples.
        confidence: Constant c of the weight 1 + c |s - tau|, for the summary.
        proxy: Scored manifest of images by the reference model to estimate from instead.
        reading: How both manifests are read.
    """
    from dataclasses import asdict

    from tglo.data.manifest import read_manifest
    from tglo.threshold.frozen import describe, estimate

    options = asdict(reading)
    training = read_manifest(manifest, **options)
    source = training if proxy is None else read_manifest(proxy, **options)
    frozen = estimate(
        source.scores(),
        percentile,
        prompts=source.prompts() if per_prompt else None,
        kappa=kappa if per_prompt else None,
        score_scale=score_scale,
        source="scores" if proxy is None else "proxy",
    )
    summary = describe(training.scores(), frozen, confidence, training.prompts())
    frozen.save(output)
    print(summary)
    print(f"wrote {output}")
