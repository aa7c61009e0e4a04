"""A part of a model, read from the model's one file by diffusers' converters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tglo.files import reading, write_json
from tglo.models.folder import REMEDY, read_config
from tglo.models.quiet import quiet
from tglo.models.single_file.header import read_header
from tglo.models.single_file.source import Source

_CLIP = "cond_stage_model.transformer."
_CLIP_L = "text_encoders.clip_l.transformer."
_REMEDY = (
    "Give a diffusers folder or hub id of its architecture as model.config (--model-config), or download the "
    "file again"
)
_DTYPES = {"F64": torch.float32, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def stored_dtype(source: Source, part: str) -> torch.dtype:
    """Return the type of most of a part's weights in the file; float16 for those of 8 bits."""
    header = read_header(source.file)
    name = header.common_dtype(header.names(source.parts[part]))
    return _DTYPES.get(name, torch.float16)


def read_part(
    source: Source, folder: Path, part: str, kind: Any, dtype: torch.dtype | None = None
) -> Any:
    """Return a part, of class `kind`, in `dtype` (as stored by default), in evaluation mode.

    The file is mapped into memory, and only this part's tensors are touched: weights of the same type are the
    file's own pages, others are converted one by one. ValueError, naming a tensor, where file and
    configuration (`folder`/`part`/config.json) do not fit.
    """
    dtype = dtype or stored_dtype(source, part)
    tensors = _tensors(source, part)
    try:
        model = _convert(tensors, str(folder), part, kind, dtype)
    except (ValueError, RuntimeError, LookupError, AttributeError) as error:
        raise _unfit(source, folder, part, " ".join(str(error).split())[:300]) from error
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    missing = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    if missing:
        raise _unfit(source, folder, part, f"it lacks {len(missing)} tensors, such as {missing[0]}")
    return model.eval()


def _unfit(source: Source, folder: Path, part: str, cause: str) -> ValueError:
    if "meta tensor" in cause:  # what diffusers runs into
        cause = "it lacks tensors of its architecture"
    return ValueError(
        f"the {part} in {source.file} does not fit {folder / part / 'config.json'} ({cause}). {_REMEDY}"
    )


def write_part(
    source: Source,
    folder: Path,
    part: str,
    kind: Any,
    target: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a part as that of a folder, with its weights in `dtype`, as stored by default."""
    read_part(source, folder, part, kind, dtype).save_pretrained(target / part)
    config = target / part / "config.json"
    # By default transformers loads what this says, and diffusers float32: a pipeline needs one of them.
    content = read_config(config)
    if "dtype" in content:
        write_json(config, {**content, "dtype": "float32"})


def _convert(
    tensors: dict[str, Tensor], folder: str, part: str, kind: Any, dtype: torch.dtype
) -> Any:
    from diffusers.loaders import single_file_utils

    if hasattr(kind, "from_single_file"):
        kept = (dtype == torch.float16 and kind._keep_in_fp32_modules) or ()
        with quiet():
            model = kind.from_single_file(
                tensors,
                config=folder,
                subfolder=part,
                dtype=torch.float32 if kept else dtype,
                local_files_only=True,
            )
        if kept:  # diffusers would convert these too
            for name, parameter in model.named_parameters():
                if not any(module in name.split(".") for module in kept):
                    parameter.data = parameter.data.to(dtype)
        return model
    options: dict[str, Any] = {
        "checkpoint": tensors,
        "config": folder,
        "subfolder": part,
        "torch_dtype": dtype,
        "local_files_only": True,
    }
    if single_file_utils.is_t5_in_single_file(tensors):
        return single_file_utils.create_diffusers_t5_model_from_checkpoint(kind, **options)
    # Of SD3's first text encoder, for which diffusers takes the identity also where the file has it.
    own = next(
        (t for n, t in tensors.items() if n.endswith(_CLIP_L + "text_projection.weight")), None
    )
    model = single_file_utils.create_diffusers_clip_model_from_ldm(kind, **options)
    if own is not None and hasattr(model, "text_projection"):
        model.text_projection.weight = torch.nn.Parameter(own.to(dtype))
    return model


def _tensors(source: Source, part: str) -> dict[str, Tensor]:
    names = read_header(source.file).names(source.parts[part])
    with reading(source.file, "safetensors file", REMEDY), safe_open(source.file, "pt") as file:
        return {_usual(name): file.get_tensor(name) for name in names}


def _usual(name: str) -> str:
    """Return a tensor's name as diffusers knows it: some older files of SD1.x leave a part of CLIP's out."""
    if name.startswith(_CLIP) and not name.startswith(_CLIP + "text_model."):
        return name.replace(_CLIP, _CLIP + "text_model.", 1)
    return name
