"""Exports that are known to load: written beside their final place, read back, compared, renamed.

A folder gets its name only after the denoiser in it, loaded from disk by diffusers, has given the
trained one's output on a fixed input. Given gathered weights, all of it happens on the CPU, because
an accelerator that is training has no room for two more copies of the model.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.utils import convert_state_dict_to_diffusers, logging
from safetensors.torch import save_file
from torch import Tensor

from tglo.files import writing_folder
from tglo.models import lora
from tglo.models.execution.modes import evaluating

if TYPE_CHECKING:
    from tglo.models.families.base import Family

_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.onnx", "*.onnx_data")
# Of the prediction's largest element, in float32. A merged LoRA is summed in another order, which a
# badly conditioned model amplifies: up to 3e-4 was seen where float64 differs by 2e-5.
_TOLERANCE = 1e-4
_MERGED_TOLERANCE = 1e-3


class ExportError(RuntimeError):
    """The export does not load, or does not compute what was trained. Nothing was written."""


def save_pipeline(
    family: Family,
    folder: Path,
    *,
    state_dict: dict[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a folder for DiffusionPipeline.from_pretrained and returns it.

    The denoiser is the trained one, with its LoRA merged in (in float32) where there is one; all
    other parts are the original folder's files. state_dict: the weights to save where the module's
    own are sharded, with every key of the denoiser, or of its LoRA. Raises ExportError, or
    FileExistsError when the folder exists and overwrite is not set.
    """
    with writing_folder(folder, overwrite=overwrite) as temporary:
        trained = _trained(family, state_dict)
        merged = trained
        if lora.has(trained):
            weights = lora.state_dict(trained)
            # In float32: rounding a merged weight to half precision would cost part of the update.
            like = next(trained.parameters())
            merged = _in_float32(family.load_denoiser(family.path, like.dtype, like.device))
            lora.attach(merged, lora.config(trained))
            lora.load_state_dict(merged, weights)
            merged.fuse_lora()
            merged.unload_lora()
        _copy_other_parts(family, temporary)
        merged.save_pretrained(temporary / family.denoiser_part)
        like = next(merged.parameters())
        loaded = family.load_denoiser(temporary, like.dtype, like.device)
        tolerance = _TOLERANCE if merged is trained else _MERGED_TOLERANCE
        _compare(family, trained, loaded, folder, tolerance)
    return folder


def save_lora(
    family: Family,
    folder: Path,
    *,
    state_dict: dict[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a folder for `pipe.load_lora_weights` and returns it; arguments and errors as above.

    state_dict holds the LoRA's weights, by the module's names or without the adapter's name.
    """
    if not lora.has(family.denoiser):
        raise ValueError("the model has no LoRA to export; use save for a whole model")
    with writing_folder(folder, overwrite=overwrite) as temporary:
        trained = _trained(family, state_dict)
        weights = lora.state_dict(trained)
        family.write_lora(temporary, trained)
        like = next(trained.parameters())
        loaded = _load_lora(family, temporary, like.dtype, like.device)
        names = set(_adapter_weights(loaded))
        if names != set(weights):
            raise ExportError(
                f"{len(names & set(weights))} of {len(weights)} LoRA weights load from {folder}; "
                "nothing was written"
            )
        _compare(family, trained, loaded, folder, _TOLERANCE)
    return folder


def write_pipeline_lora(family: Family, folder: Path, denoiser: Any) -> None:
    """Writes a denoiser's LoRA by the pipeline's own `save_lora_weights`."""
    part = family.denoiser_part
    family.pipeline_class.save_lora_weights(
        folder,
        **{
            f"{part}_lora_layers": convert_state_dict_to_diffusers(lora.state_dict(denoiser)),
            # Without it a loader takes alpha = rank.
            f"{part}_lora_adapter_metadata": _sorted_sets(lora.config(denoiser).to_dict()),
        },
    )


def write_denoiser_lora(folder: Path, denoiser: Any) -> None:
    """Writes a denoiser's LoRA as its own `load_lora_adapter(folder, prefix=None)` takes it.

    As diffusers' `save_lora_adapter`, whose bytes change: it writes sets in an order of the process's
    own, and safetensors several entries of metadata in any. So here is one, without the format.
    """
    settings = _sorted_sets(lora.config(denoiser).to_dict())
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(settings, sort_keys=True)}
    save_file(lora.state_dict(denoiser), folder / LORA_WEIGHT_NAME_SAFE, metadata=metadata)


def _sorted_sets(values: dict[str, Any]) -> dict[str, Any]:
    """So that the same LoRA gives the same bytes."""
    return {name: sorted(v) if isinstance(v, set) else v for name, v in values.items()}


def _trained(family: Family, state_dict: dict[str, Tensor] | None) -> Any:
    """The trained denoiser: the module itself, or a whole one made from gathered weights."""
    if state_dict is None:
        return family.denoiser
    if lora.has(family.denoiser):
        denoiser = family.load_denoiser(family.path, family.dtype)
        lora.attach(denoiser, lora.config(family.denoiser))
        lora.load_state_dict(denoiser, lora.state_dict(family.denoiser, state_dict))
        return denoiser
    dtype = next(iter(state_dict.values())).dtype
    denoiser = family.load_denoiser(family.path, dtype)
    denoiser.load_state_dict(state_dict)
    return denoiser


def _load_lora(family: Family, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The base denoiser in float32 with the exported LoRA, loaded by the pipeline as users do."""
    denoiser = _in_float32(family.load_denoiser(family.path, dtype, device))
    family.attach_lora(denoiser, folder)
    return denoiser


def load_lora_weights(family: Family, folder: Path) -> None:
    """Loads a LoRA into the family's denoiser; ValueError when it changes no layer of it."""
    before = set(getattr(family.denoiser, "peft_config", None) or {})
    if not folder.exists():
        raise ValueError(f"{folder} does not exist; give the folder or file of a LoRA")
    family.attach_lora(family.denoiser, folder)
    if set(getattr(family.denoiser, "peft_config", None) or {}) == before:
        raise ValueError(f"the LoRA in {folder} has no weights for this model's denoiser")


def attach_pipeline_lora(family: Family, denoiser: Any, folder: Path) -> None:
    """Loads a folder's LoRA into a denoiser by the pipeline's own `load_lora_weights`."""
    names = family.pipeline_class._get_signature_keys(family.pipeline_class)[0]
    parts: dict[str, Any] = dict.fromkeys(names) | family.unused_parts
    parts |= {family.denoiser_part: denoiser, "scheduler": family.scheduler}
    # diffusers warns about each text encoder that the LoRA has no weights for.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        family.pipeline_class(**parts).load_lora_weights(folder)
    finally:
        logging.set_verbosity(verbosity)


def _adapter_weights(denoiser: Any) -> dict[str, Tensor]:
    names = list(getattr(denoiser, "peft_config", None) or {})
    if not names:
        return {}
    return lora.get_peft_model_state_dict(denoiser, adapter_name=names[0])


def _copy_other_parts(family: Family, target: Path) -> None:
    index = family.path / "model_index.json"
    if index.is_file():
        shutil.copy(index, target)
    ignored = shutil.ignore_patterns(*_PICKLES)
    for name in family.parts():
        if name != family.denoiser_part:
            shutil.copytree(family.path / name, target / name, ignore=ignored)


def _in_float32(denoiser: Any) -> Any:
    """The denoiser if it is float32 already, else a float32 copy of it."""
    if all(p.dtype == torch.float32 for p in denoiser.parameters()):
        return denoiser
    return copy.deepcopy(denoiser).float()


@torch.no_grad()
def _compare(family: Family, trained: Any, loaded: Any, folder: Path, tolerance: float) -> None:
    """ExportError unless both predict the same, in float32, relative to the largest element."""
    side = 4 * family.bucket_step
    drawn = family.example(2, side, side)
    # Of a gathered model on the CPU, whose family computes elsewhere.
    device = next(trained.parameters()).device
    timesteps = family.timesteps(drawn.index, drawn.noisy)
    inputs = (drawn.noisy.to(device), timesteps.to(device))
    conditions = {name: tensor.to(device) for name, tensor in drawn.conditions.items()}
    outputs = []
    for denoiser in (_in_float32(trained), _in_float32(loaded)):
        with evaluating(denoiser):
            outputs.append(family.call(denoiser, *inputs, conditions).float())
    expected, output = outputs
    difference = (expected - output).abs().max().item()
    limit = tolerance * expected.abs().max().item()
    if not difference <= limit:  # also when it is NaN
        raise ExportError(
            f"the export to {folder}, loaded again, differs from the trained model by "
            f"{difference:.3g} (limit {limit:.3g}); nothing was written"
        )
