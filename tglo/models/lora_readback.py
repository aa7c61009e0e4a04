"""Whether a LoRA's export is read back as users read it, and what of it can be merged."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict

from tglo.models import lora
from tglo.models.families.model import Model
from tglo.models.readback import ExportError


def check(model: Model, folder: Path) -> None:
    """Raise ExportError, before hours of training, unless a denoiser reads the LoRA back that the model has now, of
    whatever kind the file was that training starts from; layers and their strengths, without a prediction.
    """
    with tempfile.TemporaryDirectory() as temporary:
        model.write_lora(Path(temporary), model.denoiser)
        with torch.device("meta"):
            skeleton = type(model.denoiser).from_config(model.denoiser.config)
        names = set(lora.state_dict(model.denoiser))
        read_back(model, Path(temporary), skeleton, names, folder)
    ours, theirs = (lora.strengths(denoiser) for denoiser in (model.denoiser, skeleton))
    differing = [name for name, strength in ours.items() if theirs.get(name) != strength]
    if differing:
        raise ExportError(
            f"{len(differing)} layers of the LoRA, such as {differing[0]}, are read back from an export with another "
            "strength; start from another LoRA, or set output.export = false"
        )


def read_back(model: Model, written: Path, denoiser: Any, names: set[str], folder: Path) -> None:
    """Load a LoRA as users do; ExportError, with the final folder's name, unless all its weights have a place."""
    try:
        model.attach_lora(written, denoiser, plainly=True)
    except ValueError as error:
        reason = str(error).replace(str(written), str(folder))
        raise ExportError(f"the LoRA is not read back: {reason}; nothing was written") from error
    adapters = lora.adapters(denoiser)
    found = set(get_peft_model_state_dict(denoiser, adapter_name=adapters[0]) if adapters else ())
    if found != names:
        raise ExportError(
            f"{len(found & names)} of {len(names)} LoRA weights load from {folder}; "
            "nothing was written"
        )


def check_mergeable(denoiser: Any) -> None:
    """Raise ValueError for a LoRA whose biases have no place in the weights that it is merged into."""
    lacking = lora.without_bias(denoiser)
    if lacking:
        raise ValueError(
            f"layout is merged, but the LoRA has biases (lora_bias) and {len(lacking)} of its layers, such as "
            f"{lacking[0]}, have none that they could be added to; use layout = diffusers"
        )
