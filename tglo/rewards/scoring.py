"""`tglo score`: a manifest with the scores that scorers give its images."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from tglo.batch_size import BatchSize
from tglo.data.decoding import need_pyav
from tglo.data.errors import ManifestError
from tglo.data.hub import is_on_hub
from tglo.data.manifest import Manifest, check_rows, read_manifest, write_manifest
from tglo.data.manifest_writing import WRITTEN
from tglo.data.video import is_video
from tglo.files.work_list import passes
from tglo.rewards import (
    Scorer,
    load_scorer,
    mix,
    named_scorers,
    parse_mixture,
    search_working_folder,
)
from tglo.rewards.frames import for_videos
from tglo.rewards.mixture import Scale
from tglo.rewards.parts import Parts
from tglo.rewards.score import Work, check_scoring, score_rows, scoring_bar, with_scores
from tglo.rewards.video import Inputs, takes_videos
from tglo.settings import COUNT, IMAGES, FrameOptions, ManifestOptions, check_limits

log = logging.getLogger("tglo")


LARGEST_BATCH = 256  # where a size is found on a GPU, from FIRST_BATCH on
FIRST_BATCH = 8
CPU_BATCH = 32
VIDEOS = 16  # images that a video counts as, where a scorer is given whole ones


def score_file(
    manifest: Path,
    scorers: str | Sequence[str],
    output: Path | None = None,
    batch_size: int = CPU_BATCH,
    **options: Any,
) -> Path:
    """Score the images of ``manifest`` from this process; returns the output's path.

    Arguments and errors are those of `score_share`.
    """
    return score_share(manifest, scorers, output, batch_size, **options)


def score_share(
    manifest: Path,
    scorers: str | Sequence[str],
    output: Path | None = None,
    batch_size: int = 0,
    *,
    mixture: str = "",
    mixture_scale: Scale = "none",
    reading: ManifestOptions = ManifestOptions(),
    videos: FrameOptions = FrameOptions(),
    source_rate: float | None = None,
    max_bad_fraction: float = 0.0,
    device: str = "auto",
    dtype: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
) -> Path:
    """Score ``manifest`` together with any other processes that do so, and write it with a column per scorer, in
    one of them; returns the path once it is there.

    scorers: as `load_scorer` takes them (a module in the working folder is found). All of them
        score an image when it is decoded. A column has its scorer's name.
    mixture: NAME=WEIGHT,... of these scorers, whose weighted sum is the score column; the first
        scorer's numbers by default. mixture_scale: see `tglo.rewards.mix`.
    reading: how the manifest is read. The result has the columns prompt, image and score.
    videos: how those of the rows that are videos are scored.
    source_rate, max_bad_fraction: see `score_manifest`.
    output: beside the manifest as NAME-scored by default (scored.csv inside a folder). Image paths
        stay as they are, and with them sample ids: where the output is elsewhere, it is read with
        the `root` that is logged.
    batch_size: images or videos at once. 0 finds it where a scorer is on a GPU (doubled until memory is
        short, halved then) and takes 32 elsewhere, 2 where a scorer takes whole videos.
    rank, world_size: where in the rows this process begins; of several, one that comes when all is scored does
        not score again. An interrupted call resumes where it was. At a fixed batch size, and on a CPU, the
        output has the same bits whatever the number of processes and interruptions.

    Raises ValueError for two scorers of one name, a mixture of others, or scores of other scorers that an
    interrupted call left, and what `load_scorer`, `read_manifest`, `score_manifest` and `mix` raise. All but
    the errors of the last are known before an image is scored.
    """
    check_limits(
        {"batch_size": batch_size, "frames": videos.frames},
        {"batch_size": IMAGES["batch_size"], "frames": COUNT},
    )
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
    if any(map(is_video, rows.images())):
        need_pyav()
    loaded: dict[str, Scorer] = {
        name: load_scorer(text, device=device, dtype=dtype) for name, text in texts.items()
    }
    if any(map(rows.names_video, rows.images())):
        loaded = for_videos(loaded, videos.frames, videos.of_frames)
    check_scoring(loaded, max_bad_fraction, rows, source_rate)
    sizes = _sizes(batch_size, loaded)
    once = rows.distinct()
    inputs = Inputs(list(loaded.values()), videos.frames, source_rate)
    with Parts(output, loaded) as work, scoring_bar(len(once), rank == 0) as bar:
        parts = work.begin(once, sizes.most, rank, world_size)
        count, is_done = 0, partial(work.is_done, found=bar.update)
        for free in passes(work.claims, parts, attrgetter("name"), is_done):
            each = (Work(part.rows, work.open(part), part) for part in free)
            count += score_rows(
                rows,
                each,
                loaded,
                sizes,
                inputs,
                bar.update,
                lambda done: work.add(done.part, done.known),
            )
        if work.was_finished and not count:
            log.warning("all scores are known; to make them anew remove %s", work.folder)
        with work.output_claim():
            if not work.is_written():
                scored = with_scores(
                    rows, list(loaded), once, *work.collect(parts), max_bad_fraction, work.folder
                )
                write_manifest(output, _mixed(scored, weights, mixture_scale).rows)
                work.finish(keep=world_size > 1)
    if os.path.realpath(output.parent) != rows.root:
        log.info("the images of %s are found with --root %s", output, rows.root)
    return output


def _mixed(scored: Manifest, weights: Mapping[str, float], scale: Scale) -> Manifest:
    """Return the manifest with the mixture as its score, if there is one."""
    if not weights:
        return scored
    mixed = mix({name: scored.column(name) for name in weights}, weights, scale)
    return scored.with_scores(mixed, {})


def _sizes(batch_size: int, scorers: Mapping[str, Any]) -> BatchSize:
    devices = [getattr(scorer, "device", None) for scorer in scorers.values()]
    grows = any(getattr(device, "type", "") == "cuda" for device in devices)
    first, largest = FIRST_BATCH if grows else CPU_BATCH, LARGEST_BATCH
    if any(map(takes_videos, scorers.values())):
        first, largest = max(1, first // VIDEOS), largest // VIDEOS
    return BatchSize(batch_size, grows=grows, first=first, largest=largest)


def _default_output(manifest: Path) -> Path:
    if is_on_hub(manifest):
        raise ManifestError(
            "a data set on the hub is scored into a file of your own: give --output FILE"
        )
    if manifest.is_dir():
        return manifest / "scored.csv"
    if "*" in manifest.name:
        return manifest.with_name("scored.csv")
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
