"""What an export must do before it counts: load as users load it, and compute what was trained."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn

from tglo.models.execution.modes import evaluating
from tglo.models.export_parts import loaded_bytes
from tglo.models.families.model import Model
from tglo.models.parts import FROM_DISK
from tglo.models.quiet import quiet

log = logging.getLogger(__name__)
CHEAP_BYTES = 5 * 10**9
"""A folder that takes more when it is loaded in float32 is not loaded as a whole: SD1.x and 2.x take less."""
STEPS = 2


class ExportError(RuntimeError):
    """The export does not load, or does not compute what was trained. Nothing was written."""


@torch.no_grad()
def compare(model: Model, trained: Any, loaded: Any, folder: Path, tolerance: float) -> None:
    """Raise ExportError unless both denoisers predict the same, in float32, relative to the largest element."""
    side = 4 * model.bucket_step
    draw = model.example(2, side, side)
    # A gathered model is on the CPU, wherever the one that trains is.
    device = next(trained.parameters()).device
    inputs = (draw.noisy.to(device), model.timesteps(draw).to(device))
    conditions = {name: tensor.to(device) for name, tensor in draw.conditions.items()}
    outputs = []
    for denoiser in (in_float32(trained), in_float32(loaded)):
        with evaluating(denoiser):
            outputs.append(model.call(denoiser, *inputs, conditions).float())
    expected, output = outputs
    difference = (expected - output).abs().max().item()
    limit = tolerance * expected.abs().max().item()
    if not difference <= limit:  # also when it is NaN
        raise ExportError(
            f"the export to {folder}, loaded again, differs from the trained model by "
            f"{difference:.3g} (limit {limit:.3g}); nothing was written"
        )


def try_pipeline(model: Model, written: Path, folder: Path) -> None:
    """Load a folder by the pipeline with default arguments and sample from it once, where that is cheap.

    Raises ExportError, naming the final folder, if parts are loaded in several dtypes. That the pipeline
    fails otherwise, or makes NaN, is a warning: the base's other parts may do the same.
    """
    if model.pipeline_class is None or loaded_bytes(model) > CHEAP_BYTES:
        return
    with quiet(), _without_bars():
        try:
            pipeline = model.pipeline_class.from_pretrained(written, **FROM_DISK)
            dtypes = _dtypes(pipeline)
            runs = _is_one(dtypes) and callable(pipeline)
            finite = not runs or bool(np.isfinite(_sample(model, pipeline)).all())
            problem = None if finite else "it makes NaN or inf"
        except (
            RuntimeError,
            TypeError,
            ValueError,
            ArithmeticError,
            OSError,
            ImportError,
        ) as error:
            dtypes, problem = {}, " ".join(str(error).split())[:300]
    if not _is_one(dtypes):
        told = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise ExportError(
            f"default arguments load parts of the export to {folder} in several dtypes ({told}), with which its "
            "pipeline fails; nothing was written"
        )
    if problem is not None:
        log.warning("the pipeline of %s does not run in plain diffusers: %s", folder, problem)


def in_float32(denoiser: Any) -> Any:
    """Return the denoiser if it is float32 already, else a float32 copy of it."""
    if all(p.dtype == torch.float32 for p in denoiser.parameters()):
        return denoiser
    return copy.deepcopy(denoiser).float()


def _sample(model: Model, pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    side = 4 * model.bucket_step
    settings: dict[str, Any] = {"height": side, "width": side, "num_inference_steps": STEPS}
    if "use_resolution_binning" in inspect.signature(pipeline.__call__).parameters:
        settings["use_resolution_binning"] = False
    if model.default_frames is not None:
        settings["num_frames"] = 1
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt="a photo", generator=generator, output_type="np", **settings)[0]


def _dtypes(pipeline: Any) -> dict[str, str]:
    return {
        name: str(part.dtype).removeprefix("torch.")
        for name, part in pipeline.components.items()
        if isinstance(part, nn.Module)
    }


def _is_one(dtypes: dict[str, str]) -> bool:
    return len(set(dtypes.values())) <= 1


@contextmanager
def _without_bars() -> Iterator[None]:
    bars = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            diffusers_logging.enable_progress_bar()
