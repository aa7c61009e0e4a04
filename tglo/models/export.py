"""Exports that are known to load: written beside their final place, read back, compared, renamed.

A folder gets its name only after the denoiser in it, loaded from disk by diffusers, has given the
trained one's output on a fixed input, and the whole pipeline, loaded with default arguments, an image
(see tglo.models.readback). Given gathered weights, all of it happens on the CPU, because an accelerator
that is training has no room for two more copies of the model.
"""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from tglo.files import writing_folder
from tglo.models import folder as folders
from tglo.models import kohya, lora, lora_files, lora_readback, quantization
from tglo.models.export_parts import copy_parts, export_bytes
from tglo.models.families.model import Model, Tensors
from tglo.models.readback import compare, in_float32, try_pipeline

log = logging.getLogger(__name__)
# Of the prediction's largest element, in float32. A merged LoRA is summed in another order, which a
# badly conditioned model amplifies: up to 3e-4 was seen where float64 differs by 2e-5.
_TOLERANCE = 1e-4
_MERGED_TOLERANCE = 1e-3
_ROUNDED = 5e-2  # a LoRA in half precision, beside the one that was trained
Layout = Literal["diffusers", "kohya"]


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
    free, needed = shutil.disk_usage(there).free, export_bytes(model)
    if free < needed:
        log.warning(
            "the export to %s needs %.1f MB and %.1f MB are free; free space before the run ends",
            folder, needed / 1e6, free / 1e6,
        )  # fmt: skip


def save_pipeline(
    model: Model,
    folder: Path,
    *,
    state_dict: Tensors | None = None,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a folder for DiffusionPipeline.from_pretrained and return it.

    The denoiser is the trained one, with its LoRA merged in (in float32) where there is one; all
    other parts are the original folder's files. state_dict: the weights to save where the module's
    own are sharded, with every key of the denoiser, or of its LoRA. dtype: that of all weights on the
    disk; by default the denoiser's is the one it was trained in, because rounding it would lose updates
    below its resolution, and the other parts keep theirs. Either way default arguments load all of them
    in float32. beside: more files, by name, such as a model card. Raises ExportError, DiskFull, or
    FileExistsError when the folder exists and overwrite is not set.
    """
    lora_readback.check_mergeable(model.denoiser)
    needed = export_bytes(model, dtype or torch.float32)
    with writing_folder(folder, overwrite=overwrite, needed=needed) as temporary:
        trained = _trained(model, state_dict)
        merged = trained
        if lora.has(trained):
            weights = lora.state_dict(trained)
            # In float32: rounding a merged weight to half precision would cost part of the update.
            merged = in_float32(_loaded_like(trained, model, model.path))
            lora.attach(merged, lora.config(trained))
            lora.load_state_dict(merged, weights)
            merged.fuse_lora()
            merged.unload_lora()
        if dtype is not None:
            if merged is not trained:
                compare(model, trained, merged, folder, _MERGED_TOLERANCE)
            trained = merged = _rounded(merged, dtype, copied=merged is not model.denoiser)
        copy_parts(model, temporary, dtype)
        merged.save_pretrained(temporary / model.denoiser_part)
        loaded = _loaded_like(merged, model, temporary)
        tolerance = _TOLERANCE if merged is trained else _MERGED_TOLERANCE
        compare(model, trained, loaded, folder, tolerance)
        try_pipeline(model, temporary, folder)
        _write(beside, temporary)
    return folder


def save_lora(
    model: Model,
    folder: Path,
    *,
    state_dict: Tensors | None = None,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    beside: Mapping[str, bytes] | None = None,
    layout: Layout = "diffusers",
) -> Path:
    """Write a folder for `pipe.load_lora_weights` and return it; arguments and errors are those of
    save_pipeline.

    state_dict holds the LoRA's weights, by the module's names or without the adapter's name. dtype:
    float32 by default. layout: kohya is also what ComfyUI and others read; ValueError where diffusers does
    not. Text encoders' weights of the LoRA that the model started from are written too, as they were.
    """
    if not lora.has(model.denoiser):
        raise ValueError("the model has no LoRA to export; use save for a whole model")
    if layout == "kohya":
        kohya.check(model.pipeline_class)
    with writing_folder(folder, overwrite=overwrite) as temporary:
        trained = _trained(model, state_dict)
        weights = lora.state_dict(trained)
        model.write_lora(temporary, trained, layout, dtype)
        # The base with the exported LoRA, as users load it.
        loaded = in_float32(_loaded_like(trained, model, model.path))
        lora_readback.read_back(model, temporary, loaded, set(weights), folder)
        compare(model, trained, loaded, folder, _TOLERANCE if dtype is None else _ROUNDED)
        _write(beside, temporary)
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


def _write(files: Mapping[str, bytes] | None, folder: Path) -> None:
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)


def _rounded(denoiser: Any, dtype: torch.dtype, *, copied: bool) -> Any:
    """Return the denoiser with its weights in `dtype`, those apart that its class keeps in float32.

    copied: whether it is nobody else's, and may change in place.
    """
    rounded = denoiser if copied else copy.deepcopy(denoiser)
    kept = getattr(rounded, "_keep_in_fp32_modules", None) or ()
    for name, weights in rounded.named_parameters():
        if weights.is_floating_point() and not any(part in name for part in kept):
            weights.data = weights.data.to(dtype)
    return rounded


def load_lora(model: Model, folder: Path) -> None:
    """Load a LoRA into the denoiser; ValueError when it changes no layer of it."""
    lora_files.check(folder)
    before = lora.adapters(model.denoiser)
    with folders.understood(folder, "LoRA of this model"):
        found = model.attach_lora(folder, model.denoiser)
        if not found.text_parts and lora.adapters(model.denoiser) == before:
            raise ValueError(f"the LoRA in {folder} has no weights for this model")
        model.use_text_lora(found)
