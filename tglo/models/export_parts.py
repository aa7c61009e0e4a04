"""What an export takes over from the base model's folder: all parts but the denoiser, and their index.

With default arguments diffusers loads its own models in float32, and transformers a text encoder in the
dtype that its configuration states. So that both are one, an export's configurations state float32: a text
encoder stored in half precision stays as it is on the disk.
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tglo.files import save_tensors, write_json
from tglo.models import folder as folders
from tglo.models import parts
from tglo.models.families.model import Model

_FICLONE = 0x40049409
"""Linux's request to let a file share another's blocks (btrfs, XFS, ZFS)."""
_STATED = ("dtype", "torch_dtype")  # of transformers, and of its earlier versions


def copy_parts(model: Model, target: Path, dtype: torch.dtype | None = None) -> None:
    """Write the files of all parts that the family knows, by their content; links stay behind.

    dtype: that of the weights in them; as they are by default.
    """
    for file in other_files(model):
        copied = target / file.relative_to(model.path)
        copied.parent.mkdir(parents=True, exist_ok=True)
        if dtype is not None and file.suffix == ".safetensors":
            _convert(file, copied, dtype)
        elif file.name == "config.json" and file.parent.parent == model.path:
            _write_config(file, copied)
        else:
            _clone_or_copy(file, copied)
    parts.write_parts(model.path, target, model.denoiser_part, dtype)
    if (model.path / folders.INDEX).is_file():
        write_json(target / folders.INDEX, _index(model))


def other_files(model: Model) -> list[Path]:
    """Return the files of the folder that an export takes along: weights and texts, nothing that is run."""
    return [
        file
        for name in folders.present_parts(model.path, type(model))
        for file in folders.part_files(model.path, name)
        if name != model.denoiser_part and file.suffix in (".safetensors", *folders.TEXTS)
    ]


def export_bytes(model: Model, dtype: torch.dtype = torch.float32) -> int:
    """Return about how many bytes an export takes whose denoiser is in `dtype`."""
    files = sum(file.stat().st_size for file in other_files(model))
    held = parts.elements(model.path)  # of a model in one file
    denoiser = held.pop(model.denoiser_part, 0)
    # Of the folder's own weights, because those of the module may be sharded or gathered.
    denoiser += _elements(folders.weights(model.path / model.denoiser_part))
    return files + dtype.itemsize * denoiser + 4 * sum(held.values())


def loaded_bytes(model: Model) -> int:
    """Return how many bytes the whole folder takes when it is loaded with default arguments, in float32."""
    files = [file for file in other_files(model) if file.suffix == ".safetensors"]
    own = _elements([*files, *folders.weights(model.path / model.denoiser_part)])
    return 4 * (own + sum(parts.elements(model.path).values()))


def _elements(files: list[Path]) -> int:
    count = 0
    for file in files:
        with safe_open(file, "pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    return count


def _convert(source: Path, target: Path, dtype: torch.dtype) -> None:
    with safe_open(source, "pt") as weights:
        metadata = weights.metadata()
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.to(dtype)
    save_tensors(tensors, target, metadata)


def _write_config(source: Path, target: Path) -> None:
    """Copy a part's configuration; that of a transformers model states float32."""
    config = folders.read_config(source)
    stated = [config[key] for key in _STATED if key in config]
    if "_class_name" in config or "model_type" not in config or stated == ["float32"]:
        shutil.copyfile(source, target)
        return
    config = {key: value for key, value in config.items() if key not in _STATED}
    text = json.dumps({**config, "dtype": "float32"}, indent=2, ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")


def _clone_or_copy(source: Path, target: Path) -> None:
    """Copy a file, without writing its bytes again where the file system shares them until one of both changes.

    A hard link would do so on every disk, but a program that writes into the export would change the base.
    """
    with source.open("rb") as original, target.open("wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
            return
        except OSError:  # another disk, or one that cannot
            pass
    shutil.copyfile(source, target)


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
