"""The command line: each command is a function whose arguments are its flags."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction

from tglo.plan.options import Options
from tglo.settings import SamplingOptions

log = logging.getLogger("tglo")


def demo(
    output: Path = Path("tglo-demo"),
    model: Literal["diffusion", "masked"] = "diffusion",
    seed: int = 0,
    quick: bool = False,
) -> None:
    """Align a small digit model end to end on this machine and write a report.

    Args:
        output: Folder for images, caches, runs and the report.
        model: A Stable Diffusion pipeline, or an aMUSEd one over masked tokens.
        seed: Seed of everything.
        quick: A few steps only, to see that all works; the result means nothing.
    """
    from tglo.demo.run import run

    run(output, model=model, seed=seed, quick=quick)


def doctor() -> None:
    """Say what was found, which backend each operator uses, and what to do about the rest."""
    from tglo.doctor import print_report

    print_report()


def generate(
    model: str,
    prompts: Path,
    output: Path,
    count: int = 1,
    lora: Path | None = None,
    prefix: str = "",
    sampling: OmitArgPrefixes[SamplingOptions] = SamplingOptions(),
    batch_size: int = 0,
    seed: int = 0,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> None:
    """Sample images for a file of prompts; writes PNG files and a manifest.

    The same command goes on after an interruption, and adds to a folder what more prompts or a larger
    count ask for. Under torchrun the processes share the images.

    Args:
        model: Pipeline folder (leading ./ or /) or hub id.
        prompts: Text file with a prompt per line, or a JSON list, JSON lines, CSV or TSV.
        output: Folder for images/ and manifest.csv.
        count: Images per prompt.
        lora: LoRA folder or file to load first.
        prefix: Given to the model before each prompt, as a csft model needs its good marker.
        sampling: How images are sampled.
        batch_size: Images at once; does not change them but for rounding. 0 finds it on a GPU.
        seed: An image's noise follows from this, its prompt and its index among the prompt's.
        device: cpu, cuda or auto.
        dtype: Precision of the model.
    """
    from tglo.generation.generate import generate_images

    rank, world_size = _process()
    manifest = generate_images(
        model,
        prompts,
        output,
        sampling,
        count=count,
        lora=lora,
        prefix=prefix,
        batch_size=batch_size,
        seed=seed,
        device=device,
        dtype=dtype,
        rank=rank,
        world_size=world_size,
    )
    if manifest.exists():
        print(f"wrote {manifest}")
    else:
        print(f"process {rank} is done; the one that ends last writes {manifest}")


def score(
    manifest: Positional[Path],
    scorer: UseAppendAction[tuple[str, ...]],
    output: Path | None = None,
    batch_size: int = 32,
    mixture: str = "",
    mixture_scale: Literal["none", "std"] = "none",
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> None:
    """Score a manifest's images; writes the manifest with a column per scorer, and score.

    For example: tglo score data/manifest.csv --scorer hpsv2 --scorer clip=./clip-vit-large-patch14
    --scorer aesthetic=./sac+logos+ava1-l14-linearMSE.pth --mixture hpsv2=1,aesthetic=0.01

    Args:
        manifest: CSV, JSONL or parquet with prompt and image columns.
        scorer: Name of a built-in scorer (hpsv2, pickscore, imagereward, clip, aesthetic; ink,
            colourfulness, sharpness, compressibility), or module:function taking (images, prompts).
            NAME=PLACE,PART=PLACE names a model's files; the hub has the others. Give it once for
            each scorer.
        output: Where to write, in the manifest's folder; its name with -scored by default.
        batch_size: Images at once.
        mixture: Weights NAME=WEIGHT,... of the scorers; the weighted sum is the score to train on.
            The first scorer's by default.
        mixture_scale: Divide a scorer's deviation from its mean by its std before it is weighted.
        device: Of the reward models: cpu, cuda or auto.
        dtype: Of the reward models.
    """
    from tglo.rewards.scoring import score_file

    written = score_file(
        manifest,
        scorer,
        output,
        batch_size,
        mixture=mixture,
        mixture_scale=mixture_scale,
        device=device,
        dtype=dtype,
    )
    print(f"wrote {written}")


def threshold(
    manifest: Positional[Path],
    output: Path = Path("threshold.json"),
    percentile: float = 50.0,
    score_scale: Literal["none", "std", "mad", "iqr"] = "none",
    per_prompt: bool = False,
    kappa: float = 10.0,
    confidence: float = 5.0,
    proxy: Path | None = None,
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
    """
    from tglo.data.manifest import read_manifest
    from tglo.threshold.frozen import describe, estimate

    training = read_manifest(manifest)
    source = training if proxy is None else read_manifest(proxy)
    frozen = estimate(
        source.scores(),
        percentile,
        prompts=source.prompts() if per_prompt else None,
        kappa=kappa if per_prompt else None,
        score_scale=score_scale,
        source="scores" if proxy is None else "proxy",
    )
    frozen.save(output)
    print(describe(training.scores(), frozen, confidence, training.prompts()))
    print(f"wrote {output}")


def cache(
    model: str,
    manifest: Path,
    output: Path,
    resolution: int = 1024,
    buckets: bool = True,
    batch_size: int = 8,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    max_bad_fraction: float = 0.01,
    markers: tuple[str, ...] = (),
    reference: bool = False,
    draws: int = 8,
    stratified: bool = True,
    seed: int = 0,
    caption_dropout: float = 0.1,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    weights: Literal["fp32", "half"] = "fp32",
    attention: str = "default",
    compile: Literal["none", "blocks", "whole"] = "none",
    reference_output: Path | None = None,
) -> None:
    """Encode a manifest's images and prompts once, so that training needs no VAE or text encoder.

    With --reference also run the untrained denoiser over all draws once, so that training needs no
    reference: set objective.reference = "cached" there. An interrupted run goes on; with torchrun
    the processes share the work.

    Args:
        model: Pipeline folder (leading ./ or /) or hub id.
        manifest: The manifest; scores are not needed yet.
        output: Cache folder.
        resolution: Side of a square image in pixels.
        buckets: Keep aspect ratios, at about the same number of pixels; else crop to squares.
        batch_size: Images at once.
        device: cpu, cuda or auto.
        dtype: Precision of the encoders.
        max_bad_fraction: Share of unreadable images that may be left out.
        markers: Encode every prompt also behind each of these, for objective.name = csft:
            --markers "good image: " "bad image: ".
        reference: Store the reference's errors too.
        draws: Draws (timestep, noise) of each sample; training goes through them, one an epoch.
        stratified: Let a sample's draws cover the schedule evenly.
        seed: Seed of the draws: the training's seed, or its data.draw_seed.
        caption_dropout: Share of draws with the empty prompt, as data.caption_dropout.
        precision: Precision of the reference, as engine.precision.
        weights: fp32 as one process trains (autocast), half as DeepSpeed does.
        attention: Attention backend of the reference, as model.attention.
        compile: Compile the reference's forward, as engine.compile.
        reference_output: Folder for the reference's errors; OUTPUT/reference by default.
    """
    from tglo.cache.drawer import DrawRule
    from tglo.cache.make import build, is_made_of
    from tglo.cache.make_reference import build_reference, wait_for_latents

    if not reference or markers or not is_made_of(output, manifest, resolution, buckets):
        print(
            build(
                model,
                manifest,
                output,
                resolution=resolution,
                buckets=buckets,
                batch_size=batch_size,
                device=device,
                dtype=dtype,
                max_bad_fraction=max_bad_fraction,
                markers=markers,
            )
        )
    if reference:
        wait_for_latents(output)
        print(
            build_reference(
                model,
                output,
                reference_output or output / "reference",
                DrawRule(seed, caption_dropout, draws, stratified),
                precision=precision,
                weights=weights,
                attention=attention,
                compile=compile,
                batch_size=batch_size,
                device=device,
            )
        )


def plan(options: OmitArgPrefixes[Options], json: bool = False) -> None:
    """Work out memory, communication and ZeRO stage of a run before there is a GPU.

    Args:
        options: The run.
        json: Print all numbers as JSON instead of tables.
    """
    from json import dumps

    from tglo.plan.planner import plan as work_out
    from tglo.plan.text import as_json, report

    answer = work_out(options)
    print(dumps(as_json(answer), indent=1) if json else report(answer))


def train(config: Positional[Path]) -> None:
    """Train as a TOML file says; every key is also a flag (tglo train config.toml --help).

    Args:
        config: TOML file.
    """
    _train([str(config)])


def sweep(
    config: Positional[Path],
    output: Path,
    vary: tuple[str, ...],
    prompts: Path | None = None,
    scorer: str = "",
    count: int = 4,
    sampling: OmitArgPrefixes[SamplingOptions] = SamplingOptions(),
    batch_size: int = 4,
    seed: int = 1_000_000_000,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    launch: str = "",
) -> None:
    """Train a grid of settings over one cache; writes a table and heat maps.

    For example: tglo sweep run.toml --output sweep --vary objective.reference=cached
    objective.beta=0.5,1,2 objective.confidence=0,5 --prompts prompts.txt --scorer my_module:my_scorer

    Args:
        config: TOML file of a training run; objective.reference = "cached" spares each its reference.
        output: Folder for runs, sweep.csv, sweep.md and sweep.png. The same command goes on.
        vary: Keys and their values, KEY=VALUE,VALUE,...; every combination is trained. One value
            alone replaces the file's.
        prompts: Text file of prompts to sample each trained model with.
        scorer: Built-in scorer or module:function for those samples.
        count: Samples per prompt.
        sampling: How the samples are made.
        batch_size: Images at once.
        seed: Of the samples; another than that of the training images.
        device: Of the sampling: cpu, cuda or auto.
        dtype: Of the sampling.
        launch: Start each training with this command: "torchrun --nproc-per-node 8 -m".
    """
    from tglo.sweep import Sampling, parse_variations
    from tglo.sweep import sweep as run
    from tglo.train import load_config

    if bool(prompts) != bool(scorer):
        raise ValueError("samples are scored with --prompts and --scorer together; one is missing")
    samples = None
    if prompts is not None:
        samples = Sampling(prompts, scorer, count, sampling, batch_size, seed, device, dtype)
    run(load_config(config), parse_variations(vary), output, sampling=samples, launch=launch)
    print((output / "sweep.md").read_text())
    print(f"wrote {output}/sweep.csv, sweep.md, sweep.json and sweep.png")


def export(run: Positional[Path], output: Path) -> None:
    """Export the newest checkpoint of a run: a diffusers folder, or a LoRA.

    Args:
        run: Output folder of `tglo train`. Start this with as many processes as the run had.
        output: Folder to write; refused if it exists.
    """
    from tglo.train.loop import export_run

    print(f"wrote {export_run(run, output)}")


def evaluate(
    base: str,
    prompts: tuple[str, ...],
    scorers: tuple[str, ...],
    output: Path,
    models: tuple[str, ...] = (),
    prefixes: tuple[str, ...] = (),
    trained_on: tuple[str, ...] = (),
    count: int = 4,
    sampling: OmitArgPrefixes[SamplingOptions] = SamplingOptions(),
    batch_size: int = 0,
    score_batch: int = 32,
    seed: int = 1_000_000_000,
    resamples: int = 2000,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> None:
    """Compare trained models with their base by several scorers, under the same prompts and seeds.

    For example: tglo evaluate --base ./sdxl --models tgo=./run/export --prompts parti=PartiPrompts.tsv
    --scorers sharpness colourfulness --trained-on sharpness --output evaluation

    Writes report.html, tables.md, tables.tex, estimates.csv, samples.csv, pictures and
    evaluation.json. The same command goes on after an interruption; with more models, prompts or
    scorers it adds them. Under torchrun the processes share the sampling.

    Args:
        base: Pipeline folder (leading ./ or /) or hub id.
        prompts: NAME=FILE. pickapic, parti and hpsv2 are the published sets, whose size is checked;
            other names take a text, JSON, JSON lines, CSV or TSV file.
        scorers: As `tglo score` takes them.
        output: Folder for all of it.
        models: NAME=MODEL: a pipeline folder, a hub id, or a LoRA of the base.
        prefixes: MODEL=TEXT: what a model is given before each prompt, as a csft model its good marker.
        trained_on: Scorers that the models were trained on, or MODEL=SCORER: they are marked.
        count: Images per prompt.
        sampling: How images are sampled.
        batch_size: Images at once; 0 finds it on a GPU.
        score_batch: Images scored at once.
        seed: Of samples and bootstrap; another than that of the training images.
        resamples: Of the bootstrap.
        device: Of the sampling: cpu, cuda or auto.
        dtype: Of the sampling.
    """
    from tglo.evaluate.run import evaluate as run
    from tglo.evaluate.settings import (
        Settings,
        parse_named,
        parse_scorers,
        parse_trained_on,
    )
    from tglo.rewards import search_working_folder

    named = parse_named(models, "--models")
    search_working_folder()
    rank, world_size = _process()
    content = run(
        Settings(
            base,
            named,
            {name: Path(path) for name, path in parse_named(prompts, "--prompts").items()},
            parse_scorers(scorers),
            parse_trained_on(trained_on, list(named)),
            prefixes=parse_named(prefixes, "--prefixes", "MODEL=TEXT"),
            count=count,
            options=sampling,
            batch_size=batch_size,
            score_batch=score_batch,
            seed=seed,
            resamples=resamples,
            device=device,
            dtype=dtype,
        ),
        output,
        rank=rank,
        world_size=world_size,
    )
    if content is not None:
        print((output / "tables.md").read_text())
        print(f"wrote {output}/report.html, tables, pictures and evaluation.json")


def bench(
    output: Path | None = None,
    sizes: tuple[str, ...] = (),
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "bf16",
    quick: bool = False,
) -> None:
    """Check the loss against float64 and time it against eager PyTorch and torch.compile.

    Args:
        output: JSON record to write.
        sizes: Family and batch, as in sdxl-8 flux-1 wan-1; all that the device finishes soon if none.
        device: auto, cpu or cuda.
        dtype: Of the predictions.
        quick: One tiny size without torch.compile, to see that all works; the times mean nothing.
    """
    from tglo.bench.suite import bench as run

    wrong = run(sizes, output, device=device, dtype=dtype, quick=quick)
    if wrong:
        raise ArithmeticError(f"{wrong} results are wrong or missing; see the warnings above")


COMMANDS = {
    f.__name__: f
    for f in (
        demo,
        doctor,
        generate,
        score,
        threshold,
        cache,
        plan,
        train,
        export,
        evaluate,
        sweep,
        bench,
    )
}


def _process() -> tuple[int, int]:
    """This process's number and how many there are, as a launcher says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _train(arguments: Sequence[str]) -> None:
    from tglo.train import TrainConfig, load_config
    from tglo.train import train as run

    paths = [a for a in arguments[:1] if not a.startswith("-")]
    default = load_config(paths[0]) if paths else TrainConfig()
    config = tyro.cli(
        TrainConfig,
        default=default,
        args=list(arguments[len(paths) :]),
        prog="tglo train CONFIG.toml",
        description="Train as a TOML file and these flags say; flags win.",
    )
    result = run(config)
    if not result.finished:
        print(f"stopped after {result.steps} steps; the same command goes on")
    elif result.export is not None:
        print(f"{result.steps} steps done, exported to {result.export}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. TGLO_DEBUG=1 shows the traceback of an error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    main_process = os.environ.get("RANK", "0") == "0"
    # Read when torch is loaded: CPU threads that spin while others need the core cost up to ten times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of torchvision
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO if main_process else logging.WARNING)
    try:
        if arguments[:1] == ["train"] and len(arguments) > 1:
            _train(arguments[1:])
        else:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                args=arguments,
                prog="tglo",
                description="Threshold-guided optimization of image and video generators.",
            )
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("TGLO_DEBUG") == "1":
            raise
        print(f"tglo: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
