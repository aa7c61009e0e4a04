"""The flags of `tglo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from tglo.console.verbosity import note, show
from tglo.settings import FrameOptions, ModelOptions, Precision, SamplingOptions


def evaluate(
    base: str,
    prompts: tuple[str, ...],
    scorers: tuple[str, ...],
    output: Path,
    models: tuple[str, ...] = (),
    lora: Path | None = None,
    prefixes: tuple[str, ...] = (),
    trained_on: tuple[str, ...] = (),
    count: int = 4,
    sampling: OmitArgPrefixes[SamplingOptions] = SamplingOptions(),
    batch_size: int = 0,
    score_batch: int = 32,
    score_frames: int = FrameOptions.frames,
    of_frames: Literal["mean", "worst"] = FrameOptions.of_frames,
    seed: int = 1_000_000_000,
    resamples: int = 2000,
    device: str = "auto",
    dtype: Precision = "fp32",
    loading: OmitArgPrefixes[ModelOptions] = ModelOptions(),
) -> dict[str, Any]:
    """Compare trained models of images or videos with their base by several scorers, under the same prompts
    and seeds.

    For example: tglo evaluate --base ./sdxl --models tgo=./run/export --prompts parti=PartiPrompts.tsv
    --scorers sharpness colourfulness --trained-on sharpness --output evaluation

    Writes report.html, tables.md, tables.tex, estimates.csv, samples.csv, pictures and
    evaluation.json. The same command resumes after an interruption; with more models, prompts or
    scorers it adds them. Under torchrun the processes share the sampling.

    Args:
        base: Pipeline folder or .safetensors file (leading ./ or /), or hub id.
        prompts: NAME=FILE. pickapic, parti and hpsv2 are the published sets, whose size is checked;
            other names take a text, JSON, JSON lines, CSV or TSV file.
        scorers: As `tglo score` takes them.
        output: Folder for all of it.
        models: NAME=MODEL: a pipeline folder or .safetensors file, a hub id, or a LoRA of the base.
        lora: LoRA that the base alone is sampled with, as where training started from one. (The export of such
            a training holds it.)
        prefixes: MODEL=TEXT: what a model is given before each prompt, as a csft model its good marker.
        trained_on: Scorers that the models were trained on, or MODEL=SCORER: they are marked.
        count: Images or videos per prompt.
        sampling: How images or videos are sampled.
        batch_size: Images at once; 0 finds it on a GPU.
        score_batch: Images, or frames of videos, scored at once.
        score_frames: Frames of a video that a scorer of images scores, evenly from its first to its last.
        of_frames: A video's score by such a scorer: the mean of its frames' or the worst.
        seed: Of samples and bootstrap; another than that of the training images.
        resamples: Of the bootstrap.
        device: Of the sampling: cpu, cuda or auto.
        dtype: Of the sampling.
        loading: How the models are found.
    """
    from tglo.devices import process
    from tglo.evaluate.run import evaluate as run
    from tglo.evaluate.settings import Evaluation, parse_named, parse_trained_on
    from tglo.rewards import named_scorers, search_working_folder

    named = parse_named(models, "--models")
    search_working_folder()
    rank, world_size = process()
    content = run(
        Evaluation(
            base,
            named,
            {name: Path(path) for name, path in parse_named(prompts, "--prompts").items()},
            named_scorers(scorers),
            parse_trained_on(trained_on, list(named)),
            lora=lora,
            prefixes=parse_named(prefixes, "--prefixes", "MODEL=TEXT"),
            count=count,
            options=sampling,
            batch_size=batch_size,
            score_batch=score_batch,
            videos=FrameOptions(score_frames, of_frames),
            seed=seed,
            resamples=resamples,
            device=device,
            dtype=dtype,
            loading=loading,
        ),
        output,
        rank=rank,
        world_size=world_size,
    )
    if content is None:
        return {"output": output, "complete": False}
    show((output / "tables.md").read_text())
    note(f"wrote {output}/report.html, tables, pictures and evaluation.json")
    return {"output": output, "complete": True, **content}
