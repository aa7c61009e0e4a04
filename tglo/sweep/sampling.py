"""The worth of a trained model: fresh samples of it, scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tglo.data.manifest import read_manifest
from tglo.data.video import is_video
from tglo.devices import check_device_name
from tglo.evaluate import statistics
from tglo.generation.generate import generate_images
from tglo.redaction import redacted
from tglo.rewards import load_scorer, search_working_folder
from tglo.rewards.scoring import score_file
from tglo.settings import IMAGES, ModelOptions, SamplingOptions, check_limits

SCORED = "scored.csv"
RESAMPLES = 2000  # of the bootstrap
IMAGES_AT_ONCE, VIDEOS_AT_ONCE = 256, 16  # that are scored


@dataclass(frozen=True)
class Sampling:
    """The samples that each model is judged by; prompts and seeds are the same for every model."""

    prompts: Path
    """Text file, one prompt per line."""
    scorer: str
    """Built-in scorer, or module:function."""
    count: int = 4
    """Images per prompt."""
    options: SamplingOptions = SamplingOptions()
    batch_size: int = 4
    seed: int = 1_000_000_000
    """Seed of the samples; another than that of the training images."""
    device: str = "auto"
    dtype: str = "fp32"

    def check(self) -> None:
        """Raise ValueError, before anything is trained, for what cannot be sampled or scored."""
        check_limits({name: getattr(self, name) for name in IMAGES}, IMAGES)
        self.options.check()
        check_device_name(self.device)
        search_working_folder()
        load_scorer(self.scorer, device=self.device, dtype=self.dtype)

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON types: a finished run is kept for as long as they are equal.

        Options that were added later are left out where they have their default, so that folders
        made before are still accepted.
        """
        merged = {**asdict(self), "prompts": str(self.prompts), "scorer": redacted(self.scorer)}
        merged |= merged.pop("options")
        order = ("prompts", "scorer", "count", "steps", "guidance")  # a folder's name is its hash
        first = {name: merged.pop(name) for name in order}
        if not merged["vae_tiling"]:
            del merged["vae_tiling"]
        kept = {k: v for k, v in merged.items() if v is not None or k == "choice_temperature"}
        return first | kept


def sample_scores(
    model: str,
    sampling: Sampling,
    output: Path,
    *,
    lora: Path | None = None,
    prefix: str = "",
    loading: ModelOptions = ModelOptions(),
) -> dict[str, float]:
    """Sample a model (with a LoRA, if any) into `output` and score it; the same call resumes.

    Returns mean, standard deviation and count of the samples' scores.
    prefix: text that the model, but not the scorer, is given before each prompt.
    """
    manifest = generate_images(
        model,
        sampling.prompts,
        output,
        sampling.options,
        count=sampling.count,
        lora=lora,
        prefix=prefix,
        loading=loading,
        batch_size=sampling.batch_size,
        seed=sampling.seed,
        device=sampling.device,
        dtype=sampling.dtype,
    )
    videos = any(is_video(row.image) for row in read_manifest(manifest, require_scores=False))
    batch = VIDEOS_AT_ONCE if videos else IMAGES_AT_ONCE
    scored = score_file(manifest, sampling.scorer, output / SCORED, batch)
    scores = read_manifest(scored).scores()
    deviation = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
    return {"mean": float(np.mean(scores)), "deviation": deviation, "count": len(scores)}


def difference(folder: Path, base: Path) -> dict[str, float] | None:
    """Return the mean score of the samples in `folder` minus that of the base's, of the same prompts and seeds.

    With its interval from the bootstrap over prompts; None for one prompt, which has no interval, and where
    samples of a run that is done were removed.
    """
    if not (folder / SCORED).is_file():
        return None
    ours, theirs = (read_manifest(path / SCORED) for path in (folder, base))
    prompts = np.unique(ours.prompts(), return_inverse=True)[1]
    if prompts.max() == 0:
        return None
    apart = np.bincount(prompts, ours.scores() - theirs.scores()) / np.bincount(prompts)
    counts = statistics.resample(len(apart), RESAMPLES, seed=0)
    return asdict(statistics.mean(apart, counts))
