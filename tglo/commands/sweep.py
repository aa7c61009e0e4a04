"""The flags of `tglo sweep`."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from tglo.console.verbosity import note, show
from tglo.settings import Precision, SamplingOptions


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
    dtype: Precision = "fp32",
    launch: str = "",
) -> None:
    """Train a grid of settings over one cache; writes a table and heat maps.

    For example: tglo sweep run.toml --output sweep --vary objective.reference=cached
    objective.beta=0.5,1,2 objective.confidence=0,5 --prompts prompts.txt --scorer my_module:my_scorer

    Args:
        config: TOML file of a training run; objective.reference = "cached" spares each its reference.
        output: Folder for runs, sweep.csv, sweep.md and sweep.png. The same command resumes.
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
    show((output / "sweep.md").read_text())
    note(f"wrote {output}/sweep.csv, sweep.md, sweep.json and sweep.png")
