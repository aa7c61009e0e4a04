"""The flags of `tglo generate`."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import OmitArgPrefixes

from tglo.console.verbosity import note
from tglo.settings import ModelOptions, Offload, Precision, SamplingOptions


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
    dtype: Precision = "fp32",
    offload: Offload = "none",
    loading: OmitArgPrefixes[ModelOptions] = ModelOptions(),
) -> None:
    """Sample images or videos for a file of prompts; writes PNG or MP4 files and a manifest.

    The same command resumes after an interruption, and adds to a folder what more prompts or a larger
    count ask for. Under torchrun the processes share the images.

    Args:
        model: Pipeline folder or .safetensors file (leading ./ or /), or hub id.
        prompts: Text file with a prompt per line, or a JSON list, JSON lines, CSV or TSV.
        output: Folder for images/ and manifest.csv.
        count: Images or videos per prompt.
        lora: LoRA folder or file to load first.
        prefix: Given to the model before each prompt, as a csft model needs its good marker.
        sampling: How images or videos are sampled.
        batch_size: Images at once; does not change them but for rounding. 0 finds it on a GPU.
        seed: An image's noise follows from this, its prompt and its index among the prompt's.
        device: cpu, cuda or auto.
        dtype: Precision of the model.
        offload: Weights wait in host memory: model, each part (text encoders, denoiser, VAE) until it is
            used; blocks, also the denoiser's blocks and the text encoders' layers, which is slower and
            takes the least of a GPU.
        loading: How the model is found.
    """
    from tglo.devices import process
    from tglo.generation.generate import generate_images

    rank, world_size = process()
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
        offload=offload,
        loading=loading,
        rank=rank,
        world_size=world_size,
    )
    if manifest.exists():
        note(f"wrote {manifest}")
    else:
        note(f"process {rank} is done; the one that ends last writes {manifest}")
