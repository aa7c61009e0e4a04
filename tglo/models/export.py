"""Exports that are known to load: written beside their final place, read back, compared, renamed.

A folder gets its name only after the denoiser in it, loaded from disk by diffusers, has given the
trained one's output on a fixed input. Given gathered weights, all of it happens on the CPU, because
an accelerator that is training has no room for two more copies of the model.
"""

from __future__ import annotations

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict

from tglo.files import write_json, writing_folder
from tglo.models import folder as folders
from tglo.models import lora, lora_files, quantization
from tglo.models.execution.modes import evaluating
from tglo.models.families.model import Model, Tensors

log = logging.getLogger(__name__)
# Of the prediction's largest element, in float32. A merged LoRA is summed in another order, which a
# badly conditioned model amplifies: up to 3e-4 was seen where float64 differs by 2e-5.
_TOLERANCE = 1e-4
_MERGED_TOLERANCE = 1e-3


def check_export(model: Model, folder: Path, *, whole: bool) -> None:
    """Before hours of training: raise ValueError unless `save_pipeline` (whole) or `save_lora` will have all
    they need, and warn of optional parts that it will leave out, or of too little space.
    """
    folders.check(model.path, type(model))
    if not whole:
        return
    missing = folders.left_out(model.path, type(model))
    if missing:
        log.warning(
            "%s lists %s, but has no such folder with safetensors weights; the export will do "
            "without", model.path, ", ".join(missing),
        )  # fmt: skip
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    free, needed = shutil.disk_usage(there).free, _bytes(model)
    if free < needed:
        log.warning(
            "the export to %s needs %.1f MB and %.1f MB are free; free space before the run ends",
            folder, needed / 1e6, free / 1e6,
        )  # fmt: skip


class ExportError(RuntimeError):
    """The export does not load, or does not compute what was trained. Nothing was written."""


def save_pipeline(
    model: Model, folder: Path, *, state_dict: Tensors | None = None, overwrite: bool = False
) -> Path:
    """Write a folder for DiffusionPipeline.from_pretrained and return it.

    The denoiser is the trained one, with its LoRA merged in (in float32) where there is one; all
    other parts are the original folder's files. state_dict: the weights to save where the module's
    own are sharded, with every key of the denoiser, or of its LoRA. Raises ExportError, DiskFull, or
    FileExistsError when the folder exists and overwrite is not set.
    """
    needed = _bytes(model)
    with writing_folder(folder, overwrite=overwrite, needed=needed) as temporary:
        trained = _trained(model, state_dict)
        merged = trained
        if lora.has(trained):
            weights = lora.state_dict(trained)
            # In float32: rounding a merged weight to half precision would cost part of the update.
            merged = _in_float32(_loaded_like(trained, model, model.path))
            lora.attach(merged, lora.config(trained))
            lora.load_state_dict(merged, weights)
            merged.fuse_lora()
            merged.unload_lora()
        _copy_other_parts(model, temporary)
        merged.save_pretrained(temporary / model.denoiser_part)
        loaded = _loaded_like(merged, model, temporary)
        tolerance = _TOLERANCE if merged is trained else _MERGED_TOLERANCE
        _compare(model, trained, loaded, folder, tolerance)
    return folder


def save_lora(
    model: Model, folder: Path, *, state_dict: Tensors | None = None, overwrite: bool = False
) -> Path:
    """Write a folder for `pipe.load_lora_weights` and return it; arguments and errors are those of
    save_pipeline.

    state_dict holds the LoRA's weights, by the module's names or without the adapter's name.
    """
    if not lora.has(model.denoiser):
        raise ValueError("the model has no LoRA to export; use save for a whole model")
    with writing_folder(folder, overwrite=overwrite) as temporary:
        trained = _trained(model, state_dict)
        weights = lora.state_dict(trained)
        model.write_lora(temporary, trained)
        # The base with the exported LoRA, as users load it.
        loaded = _in_float32(_loaded_like(trained, model, model.path))
        model.attach_lora(temporary, loaded)
        adapters = lora.adapters(loaded)
        names = set(get_peft_model_state_dict(loaded, adapter_name=adapters[0]) if adapters else ())
        if names != set(weights):
            raise ExportError(
                f"{len(names & set(weights))} of {len(weights)} LoRA weights load from {folder}; "
                "nothing was written"
            )
        _compare(model, trained, loaded, folder, _TOLERANCE)
    return folder


def _trained(model: Model, state_dict: Tensors | None) -> Any:
    """Return the trained denoiser: the module itself, or a whole one made from gathered weights.

    A LoRA on a quantised denoiser is put on the folder's own weights.
    """
    if state_dict is None and quantization.kind_of(model.denoiser):
        if not lora.has(model.denoiser):
            raise ValueError(
                f"the model is quantised to {quantization.kind_of(model.denoiser)} and has no LoRA, so "
                f"there is nothing to export that is not in {model.path}"
            )
        state_dict = lora.state_dict(model.denoiser)
    if state_dict is None:
        return model.denoiser
    if lora.has(model.denoiser):
        denoiser = model.load_denoiser(model.path, model.dtype)
        lora.attach(denoiser, lora.config(model.denoiser))
        lora.load_state_dict(denoiser, lora.state_dict(model.denoiser, state_dict))
        return denoiser
    dtype = next(iter(state_dict.values())).dtype
    denoiser = model.load_denoiser(model.path, dtype)
    # Buffers are not trained, so gathered weights come without them: they are the folder's.
    missing, unexpected = denoiser.load_state_dict(state_dict, strict=False)
    lacking = {name for name, _ in denoiser.named_parameters()} & set(missing)
    if lacking or unexpected:
        names = sorted([*lacking, *unexpected])
        raise ValueError(
            f"{len(names)} weights do not fit the denoiser in {model.path}, such as {names[0]}"
        )
    return denoiser


def _loaded_like(denoiser: Any, model: Model, folder: Path) -> Any:
    """Load a folder's denoiser in the dtypes of this one, on its device; its LoRA apart."""
    dtype = quantization.floating_dtype(denoiser)
    loaded = model.load_denoiser(folder, dtype, next(denoiser.parameters()).device)
    own = {p.dtype for name, p in denoiser.named_parameters() if "lora_" not in name}
    if own == {dtype}:  # also what its class keeps in float32 in loading
        quantization.convert_weights(loaded, dtype)
    return loaded


def load_lora(model: Model, folder: Path) -> None:
    """Load a LoRA into the denoiser; ValueError when it changes no layer of it."""
    before = lora.adapters(model.denoiser)
    lora_files.check(folder)
    with folders.understood(folder, "LoRA of this model"):
        model.attach_lora(folder, model.denoiser)
    if lora.adapters(model.denoiser) == before:
        raise ValueError(f"the LoRA in {folder} has no weights for this model's denoiser")


def _copy_other_parts(model: Model, target: Path) -> None:
    """Copy the files of all parts that the family knows, by their content; links stay behind."""
    for file in _other_files(model):
        copied = target / file.relative_to(model.path)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)
    if (model.path / folders.INDEX).is_file():
        write_json(target / folders.INDEX, _index(model))


def _index(model: Model) -> dict[str, Any]:
    """Return the index of the export: as it was, without the parts that are not in it."""
    kind, index = type(model), folders.read_index(model.path)
    there = folders.present_parts(model.path, kind)
    for name, entry in list(index.items()):
        if isinstance(entry, list) and not name.startswith("_") and name not in there:
            if name in kind.optional_parts():
                index[name] = [None, None]
            else:
                del index[name]
    return index


def _other_files(model: Model) -> list[Path]:
    """Return the files of the folder that an export takes along: weights and texts, nothing that is run."""
    return [
        file
        for name in folders.present_parts(model.path, type(model))
        for file in folders.part_files(model.path, name)
        if name != model.denoiser_part and file.suffix in (".safetensors", *folders.TEXTS)
    ]


def _bytes(model: Model) -> int:
    """Return about how many bytes an export of the whole model takes."""
    others = sum(file.stat().st_size for file in _other_files(model))
    # Of the folder's own weights, because those of the module may be sharded or gathered.
    return others + sum(p.stat().st_size for p in folders.weights(model.path / model.denoiser_part))


def _in_float32(denoiser: Any) -> Any:
    """Return the denoiser if it is float32 already, else a float32 copy of it."""
    if all(p.dtype == torch.float32 for p in denoiser.parameters()):
        return denoiser
    return copy.deepcopy(denoiser).float()


@torch.no_grad()
def _compare(model: Model, trained: Any, loaded: Any, folder: Path, tolerance: float) -> None:
    """Raise ExportError unless both predict the same, in float32, relative to the largest element."""
    side = 4 * model.bucket_step
    draw = model.example(2, side, side)
    # A gathered model is on the CPU, wherever the one that trains is.
    device = next(trained.parameters()).device
    inputs = (draw.noisy.to(device), model.timesteps(draw).to(device))
    conditions = {name: tensor.to(device) for name, tensor in draw.conditions.items()}
    outputs = []
    for denoiser in (_in_float32(trained), _in_float32(loaded)):
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
