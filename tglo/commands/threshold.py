"""The flags of `tglo threshold`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from tglo.console.verbosity import note, show
from tglo.settings import ManifestOptions

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from tglo.data.manifest import Manifest
    from tglo.threshold import Threshold
    from tglo.threshold.baselines import Embed


def threshold(
    manifest: Positional[Path],
    output: Path = Path("threshold.json"),
    baseline: Literal["percentile", "mean", "oracle", "ridge"] = "percentile",
    percentile: float = 50.0,
    score_scale: Literal["none", "std", "mad", "iqr"] = "none",
    per_prompt: bool = False,
    kappa: float = 10.0,
    confidence: float = 5.0,
    proxy: Path | None = None,
    cache: Path | None = None,
    report: Path | None = None,
    reading: OmitArgPrefixes[ManifestOptions] = ManifestOptions(),
) -> dict[str, Any]:
    """Estimate the threshold of a scored manifest, show what it does, and freeze it.

    Args:
        manifest: The scored manifest.
        output: JSON file to write.
        baseline: The paper's percentile; the mean of all scores; oracle, the mean of each prompt's,
            shrunk as far as the scores tell (one image a prompt: ridge); ridge, a regression on the
            prompts' embeddings.
        percentile: Percentile of the scores.
        score_scale: Unit of the distance from the threshold: none is the paper's.
        per_prompt: A percentile for each prompt, shrunk towards the global one.
        kappa: Strength of that shrinkage, in samples.
        confidence: Constant c of the weight 1 + c |s - tau|, for the summary; inf: |s - tau|.
        proxy: Scored manifest of images by the reference model to estimate from instead.
        cache: Folder that `tglo cache` made, with the prompts' embeddings for ridge.
        report: HTML page to write too: the data set under this threshold, as `tglo look` shows it.
        reading: How both manifests are read.
    """
    from dataclasses import asdict

    from tglo.data.manifest import read_manifest
    from tglo.threshold.frozen import estimate
    from tglo.threshold.summary import describe

    if report is not None:
        from tglo.pages.output import check_page

        check_page(report, "--report", "report.html")
    for source_file in (manifest, proxy):
        if source_file is not None and output.resolve() == source_file.resolve():
            raise ValueError(f"--output {output} is the manifest itself; give another file")
    options = asdict(reading)
    training = read_manifest(manifest, **options)
    source = training if proxy is None else read_manifest(proxy, **options)
    by_prompt = per_prompt or baseline != "percentile"
    frozen = estimate(
        source.scores(),
        percentile,
        prompts=source.prompt_codes() if by_prompt else None,
        kappa=kappa if per_prompt else None,
        score_scale=score_scale,
        source="scores" if proxy is None else "proxy",
        baseline=baseline,
        embed=None if cache is None else _embeddings(cache),
    )
    summary = describe(training.scores(), frozen, confidence, training.prompt_codes())
    frozen.save(output)
    show(str(summary))
    note(f"wrote {output}")
    if report is not None:
        _report(report, training, frozen, confidence)
    return {"output": output, **asdict(summary)}


def _report(page: Path, manifest: Manifest, frozen: Threshold, confidence: float) -> None:
    from tglo.look import survey
    from tglo.look.page import write_page
    from tglo.train import TrainConfig, objective_config

    config = TrainConfig(objective=objective_config("tgo", confidence=confidence))
    write_page(page, manifest, survey(manifest, config, threshold=frozen))
    note(f"wrote {page}")


def _embeddings(folder: Path) -> Embed:
    """Return a function from prompts to their mean embeddings in a cache, which is opened when it is called."""

    def embed(prompts: Sequence[str]) -> ArrayLike:
        from tglo.cache.latents import LatentCache
        from tglo.cache.pooled import mean_pooled

        return mean_pooled(LatentCache(folder), prompts)

    return embed
