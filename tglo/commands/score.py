"""The flags of `tglo score`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction

from tglo.console.verbosity import note
from tglo.settings import FrameOptions, ManifestOptions, Precision


def score(
    manifest: Positional[Path],
    scorer: UseAppendAction[tuple[str, ...]],
    output: Path | None = None,
    batch_size: int = 0,
    mixture: str = "",
    mixture_scale: Literal["none", "std"] = "none",
    max_bad_fraction: float = 0.01,
    reading: OmitArgPrefixes[ManifestOptions] = ManifestOptions(),
    videos: OmitArgPrefixes[FrameOptions] = FrameOptions(),
    source_rate: float | None = None,
    device: str = "auto",
    dtype: Precision = "fp32",
) -> dict[str, Any]:
    """Score a manifest's images or videos; writes the manifest with a column per scorer, and score.

    For example: tglo score data/manifest.csv --scorer hpsv2 --scorer clip=./clip-vit-large-patch14
    --scorer aesthetic=./sac+logos+ava1-l14-linearMSE.pth --mixture hpsv2=1,aesthetic=0.01

    Any number of these commands, on several machines and with torchrun too, share the work if they have
    the same output. The same command resumes where it was stopped.

    Args:
        manifest: CSV, JSONL or parquet with prompt and image columns, a saved data set, tars, a folder
            of images with captions, or hf://datasets/OWNER/NAME.
        scorer: Name of a built-in scorer (hpsv3, hpsv2, pickscore, imagereward, clip, aesthetic, ocr;
            ink, colourfulness, sharpness, compressibility; of videos videoreward, videoreward_vq,
            videoreward_mq, videoreward_ta), module:function taking (images, prompts), or (videos,
            prompts) if its attribute takes is "videos", or NAME=http://HOST:PORT/PATH of a server,
            with ,videos=N for one of videos (docs/rewards.md has the format).
            NAME=PLACE,PART=PLACE names a model's files; the hub has the others. Give it once for
            each scorer.
        output: Where to write; beside the manifest, its name with -scored, by default. What lies
            elsewhere is read with the --root that is printed.
        batch_size: Images or videos at once; does not change scores but for rounding. 0 finds it on a GPU
            and is 32 on a CPU, 2 where a scorer takes videos.
        mixture: Weights NAME=WEIGHT,... of the scorers; the weighted sum is the score to train on.
            The first scorer's by default.
        mixture_scale: Divide a scorer's deviation from its mean by its std before it is weighted.
        max_bad_fraction: Share of unreadable images whose rows may be left out.
        reading: How the manifest is read; its scores are replaced.
        videos: How a scorer of images scores a video.
        source_rate: Frames per second of folders of frames, where the manifest has no frame_rate
            for them; a scorer of videos needs it.
        device: Of the reward models: cpu, cuda or auto.
        dtype: Of the reward models.
    """
    from tglo.devices import process
    from tglo.rewards import named_scorers
    from tglo.rewards.scoring import score_share

    rank, world_size = process()
    written = score_share(
        manifest,
        scorer,
        output,
        batch_size,
        mixture=mixture,
        mixture_scale=mixture_scale,
        reading=reading,
        videos=videos,
        source_rate=source_rate,
        max_bad_fraction=max_bad_fraction,
        device=device,
        dtype=dtype,
        rank=rank,
        world_size=world_size,
    )
    note(f"wrote {written}")
    return {"output": written, "scorers": list(named_scorers(scorer)), "complete": True}
