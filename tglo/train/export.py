"""Images sampled on the way, and the exported model at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Literal

import torch
from PIL.Image import Image

from tglo.data.video import Video, contact_sheet, write_video
from tglo.files import writing_folder
from tglo.train import card, processes
from tglo.train.earlier import SAMPLES
from tglo.train.run import Run
from tglo.train.validation import validation_options

Layout = Literal["diffusers", "kohya", "merged"]
log = logging.getLogger("tglo")


def is_due(run: Run, step: int) -> bool:
    """Return whether the validation prompts are sampled after `step` updates."""
    output = run.config.output
    return bool(output.validation_prompts) and step > 0 and step % output.validation_every == 0


def make_up(run: Run, step: int) -> Path | None:
    """Validate where the run continues, if it ended between that step's checkpoint and its images.

    Returns what `validate` does.
    """
    if is_due(run, step):
        there = processes.on_main(lambda: _folder(run, step).exists())
        if not processes.gather(there)[0]:
            return validate(run, step)
    return None


def validate(run: Run, step: int) -> Path | None:
    """Sample the validation prompts, always from the same seeds, to `samples/step-N`.

    Averaged weights are used where there are any. Of a model of videos each is a file and a sheet of its
    frames. Images that are not finite are reported, and the run continues. Under ZeRO 3 every rank
    samples, with the live weights, since a forward pass gathers them from all ranks. Returns that folder on
    rank 0, None where there are no images.
    """
    sharded = run.config.engine.zero_stage == 3
    average = run.ema.whole() if run.ema and not sharded else None
    output, prefix = run.config.output, run.config.objective.prompt_prefix

    def sample() -> Sequence[Image | Video]:
        if not sharded and processes.rank() != 0:
            return []
        averaged = run.ema.applied(average) if run.ema and average else nullcontext()
        # Sampling has other sizes than training: compiling for them would take longer.
        uncompiled = torch.compiler.set_stance("force_eager")
        with averaged, uncompiled, run.engine.autocast():
            try:
                return run.family.generate(
                    [prefix + prompt for prompt in output.validation_prompts],
                    list(range(len(output.validation_prompts))),
                    validation_options(output),
                    batch_size=8 if run.family.frame_rate is None else 1,
                    denoiser=run.engine.module,
                )
            except FloatingPointError as error:  # the guard, not a picture, ends a run
                log.warning("no validation images after step %d: %s", step, error)
                return []

    if sharded:  # a forward pass communicates, so no error of one rank alone can be waited for
        images = sample()
    else:
        images = processes.together(sample)
    return processes.on_main(lambda: _write(images, _folder(run, step)))


def _folder(run: Run, step: int) -> Path:
    return run.config.output.folder / SAMPLES / f"step-{step:08d}"


def _write(images: Sequence[Image | Video], folder: Path) -> Path | None:
    if not images:
        return None
    files: dict[str, bytes] = {}
    for number, image in enumerate(images):
        if isinstance(image, Video):
            files[f"{number:03d}.mp4"] = write_video(image)
            image = contact_sheet(image)
        files[f"{number:03d}.png"] = _png(image)
    with writing_folder(folder, overwrite=True, needed=sum(map(len, files.values()))) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
    return folder


def _png(image: Image) -> bytes:
    content = BytesIO()
    image.save(content, "png")
    return content.getvalue()


def export(
    run: Run,
    folder: Path,
    overwrite: bool = True,
    layout: Layout = "diffusers",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write the trained model to `folder`, re-loaded and compared first; collective.

    layout: of a LoRA, diffusers, kohya, or merged into a whole folder. dtype: see tglo.models.export. Beside
    the weights lies a model card.
    """
    base = run.base.digests()
    weights = run.engine.state_dict() if run.ema is None else run.ema.whole()

    def write() -> None:
        try:
            beside = card.files(run, layout, base)
        except (OSError, ValueError) as error:  # the weights matter more
            log.warning("the export has no model card: %s", error)
            beside = {}
        options = {"state_dict": weights, "overwrite": overwrite, "dtype": dtype, "beside": beside}
        if run.config.model.train == "lora" and layout != "merged":
            run.family.save_lora(folder, layout=layout, **options)
        else:
            run.family.save(folder, **options)

    processes.on_main(write)
    log.info("exported to %s", folder)
    return folder
