"""Images from a model folder and prompts, and the manifest that lists them.

An image is named and seeded by its prompt and its index among that prompt's images. So more prompts
or a larger count change no image that is there, and processes share the work without a word: each
makes the images of its numbers, and the one that finds all of them there writes the manifest.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from tglo import models
from tglo.batch_size import BatchSize
from tglo.console.verbosity import bar_hidden
from tglo.data.decoding import need_pyav
from tglo.data.manifest import FAMILY, SEED, Row, sample_id, write_manifest
from tglo.devices import DTYPES, process_device
from tglo.files import Patience, claim_folder, disk_space, locked, remove_leftovers
from tglo.generation.image_files import collect, is_whole, publish_images
from tglo.generation.prompts import read_prompts
from tglo.models.execution import offloading
from tglo.models.families.base import Family
from tglo.models.fingerprint import file_digest, model_digest
from tglo.settings import IMAGES, ModelOptions, Offload, SamplingOptions, check_limits

log = logging.getLogger("tglo")
MANIFEST = "manifest.csv"
SETTINGS = "generation.json"
FIRST_BATCH = 4  # images at once where the size is found; on a CPU it stays
LARGEST_BATCH = 64
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 1800.0  # without a new image of the other processes


@dataclass(frozen=True, slots=True)
class Planned:
    """An image or a video to make: its prompt, its index among the prompt's, its file's name in images/."""

    prompt: str
    index: int
    suffix: str = ".png"

    @property
    def name(self) -> str:
        digest = hashlib.sha256(self.prompt.encode()).hexdigest()
        return f"{digest[:16]}-{self.index:04d}{self.suffix}"

    def seed(self, seed: int) -> int:
        """Return the seed of the image's own generator, in [0, 2^32): torch's takes no more.

        The images of a prompt count up from a place that the prompt and `seed` choose, so no two of
        them are equal.
        """
        digest = hashlib.sha256(f"{seed}\0{self.prompt}".encode()).digest()
        return (int.from_bytes(digest[:4], "big") + self.index) % 2**32


def plan_images(prompts: Sequence[str], count: int, suffix: str = ".png") -> list[Planned]:
    """Return every prompt once, `count` times over; a prompt that comes twice gets twice as many images."""
    seen: Counter[str] = Counter()
    planned = []
    for prompt in [*prompts] * count:
        planned.append(Planned(prompt, seen[prompt], suffix))
        seen[prompt] += 1
    return planned


def generate_images(
    model: str,
    prompts: Path | Sequence[str],
    output: Path,
    options: SamplingOptions = SamplingOptions(),
    *,
    count: int = 1,
    lora: Path | None = None,
    prefix: str = "",
    batch_size: int = 0,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
    offload: Offload = "none",
    rank: int = 0,
    world_size: int = 1,
    wait: bool = False,
    progress: bool = True,
    loading: ModelOptions = ModelOptions(),
) -> Path:
    """Sample ``count`` images of each prompt into ``output``; returns the manifest's path.

    A model of videos makes MP4 files, each with a sheet of its frames of the same name beside it.

    prompts: texts, or a file that tglo.generation.prompts.read_prompts reads. options: see
    tglo.models.sampling.generate. prefix: text that the model is given before each prompt, as a model
    of objective "csft" needs its good marker; names, seeds and manifest come from the prompts without
    it. batch_size: images at once; 0 finds it on a GPU (doubled until memory is short, halved then)
    and takes 4 on a CPU. Images that are there whole are kept, so an interrupted call resumes; at a fixed
    batch size, and on a CPU, it ends with the same bits as one that was never interrupted, whatever
    the number of processes. rank, world_size: this process makes the images of its share. The
    manifest is written by the process that finds all images there, so without ``wait`` it may be
    missing when this returns. offload: see tglo.models.execution.offloading. loading: how the model is found.

    Raises ValueError for no prompts, a count below 1, a folder with images of other settings
    (naming what differs) or in use by another process with this share, FloatingPointError instead
    of an image that is not finite, DiskFull, what tglo.models.load raises, and RuntimeError when
    the other processes have made no image for half an hour.
    """
    texts = read_prompts(prompts) if isinstance(prompts, Path) else list(prompts)
    if not texts or count < 1 or batch_size < 0:
        raise ValueError(
            f"{len(texts)} prompts, count {count} and batch_size {batch_size}; needed are a prompt, "
            "a count of at least 1, and a batch_size of at least 1, or 0 to find it"
        )
    check_limits({"count": count, "batch_size": batch_size, "seed": seed}, IMAGES)
    options.check()
    path = models.resolve(model, options=loading)
    kind = models.family_of(path)
    kind.check_size(path, options)
    if kind.default_frames is not None:
        need_pyav()
    planned = plan_images(texts, count, ".png" if kind.default_frames is None else ".mp4")
    settings = {
        "model": model_digest(path, kind),
        "lora": "none" if lora is None else file_digest(lora),
        **options.as_text(),
        **kind.image_settings(path),
        "seed": str(seed),
        "dtype": dtype,
    }
    if prefix:
        settings["prefix"] = prefix
    if loading.chunks > 1:
        settings["prompt_chunks"] = str(loading.chunks)
    with disk_space(output):
        claim_folder(output / SETTINGS, settings)
    share = f"-{rank}-of-{world_size}" if world_size > 1 else ""
    busy = f"{output} is in use by another process that makes its images; wait for it, or stop it"
    with disk_space(output), locked(output / f".generate{share}.lock", busy):
        folder = output / "images"
        folder.mkdir(exist_ok=True)
        remove_leftovers(folder)
        collect(folder)
        missing = _missing(planned, folder)
        place = process_device(device)
        sizes = BatchSize(
            batch_size, grows=place.type == "cuda", first=FIRST_BATCH, largest=LARGEST_BATCH
        )
        # Whole batches go to a process, so that what is computed together does not depend on how many.
        unit = batch_size or (1 if sizes.grows else FIRST_BATCH)
        shares = {image: number // unit % world_size for number, image in enumerate(planned)}
        mine = [image for image in missing if shares[image] == rank]
        if missing:
            (output / MANIFEST).unlink(missing_ok=True)  # of fewer images
        torn = [image.name for image in mine if (folder / image.name).exists()]
        if torn:
            told = ", ".join(torn[:10])
            log.warning("%d images of %s are torn and made again: %s", len(torn), folder, told)
        if mine:
            family = models.load(
                path,
                dtype=DTYPES[dtype],
                device=place if offload == "none" else "cpu",
                options=loading,
            )
            if lora is not None:
                family.load_lora(lora)
            if offload != "none":
                offloading.offload(family, offload, place)
            hidden = bar_hidden(progress and rank == 0)
            with tqdm(total=len(mine), desc="samples", disable=hidden) as bar:
                for made in _make(family, mine, prefix, seed, sizes, folder, options):
                    bar.update(made)
            family.prompts.report()
        if wait:
            _wait_for(missing, folder)
        elif _missing(missing, folder):
            return output / MANIFEST
        _write_manifest(output / MANIFEST, planned, seed, kind.name)
    return output / MANIFEST


def _wait_for(images: Sequence[Planned], folder: Path) -> None:
    """Wait until other processes have made these; RuntimeError when they no longer make any."""
    patience = Patience(folder, PATIENCE_SECONDS)
    missing = images
    while missing := _missing(missing, folder):  # what is there stays: only the rest is asked for
        if patience.ended():
            raise RuntimeError(
                f"{folder} lacks {len(missing)} images of other processes and has not changed for "
                f"{patience.seconds:.0f} s: one of them failed or was never started; the same command "
                "resumes"
            )
        time.sleep(POLL_SECONDS)


def _write_manifest(path: Path, planned: Sequence[Planned], seed: int, family: str) -> None:
    rows = []
    for line, image in enumerate(planned, start=2):
        name = f"images/{image.name}"
        known = {SEED: image.seed(seed), FAMILY: family}
        rows.append(Row(sample_id(image.prompt, name), image.prompt, name, None, line, known))
    write_manifest(path, rows)


def _missing(images: Sequence[Planned], folder: Path) -> list[Planned]:
    named = set(os.listdir(folder))
    there = {
        image.name for image in images if image.name in named and is_whole(folder / image.name)
    }
    return [image for image in images if image.name not in there]


def _make(
    family: Family,
    images: Sequence[Planned],
    prefix: str,
    seed: int,
    sizes: BatchSize,
    folder: Path,
    options: SamplingOptions,
) -> Iterator[int]:
    """Make the images batch by batch; yields how many each time."""
    start = 0
    while start < len(images):
        batch = images[start : start + sizes.value]
        prompts = [prefix + image.prompt for image in batch]
        seeds = [image.seed(seed) for image in batch]
        try:
            pictures = family.generate(prompts, seeds, options, batch_size=len(batch))
        except torch.OutOfMemoryError as error:
            sizes.shrink(error)
            continue
        sizes.grow()
        names = [image.name for image in batch]
        publish_images(folder, dict(zip(names, pictures, strict=True)))
        start += len(batch)
        yield len(batch)
