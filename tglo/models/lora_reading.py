"""What a LoRA's file holds, by the pipeline's own reading of it, compared with the model before anything is attached.

The pipeline knows the layouts: diffusers' (PEFT's names, with the adapter's settings in the file's header) and, of
many models, kohya's (with an `.alpha` beside each pair of weights).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tglo.models import folder as folders
from tglo.models import lora_strengths
from tglo.models.quiet import quiet

READ = {"use_safetensors": True, "local_files_only": True}
_A, _B = ".lora_A.weight", ".lora_B.weight"
_NAMED = 3  # layers that an error names


@dataclass(frozen=True)
class Found:
    """A LoRA's weights by diffusers' names, with the part of the pipeline in front ("unet.", "text_encoder.")."""

    path: Path
    weights: dict[str, Tensor]
    alphas: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    def of(self, part: str) -> dict[str, Tensor]:
        """Return a part's weights in PEFT's names, without the part's name."""
        return lora_strengths.in_peft_names(part, self.weights)

    def settings(
        self, part: str, weights: Mapping[str, Tensor], root: str = ""
    ) -> dict[str, Any] | None:
        """Return what `load_lora_adapter` takes as metadata: the file's, or each layer's own rank and alpha."""
        if self.metadata is not None or not weights:
            return self.metadata
        found = lora_strengths.settings(part, weights, self.alphas, root)
        return {f"{part}.{name}": value for name, value in found.items()}

    @property
    def text_parts(self) -> list[str]:
        """The text encoders that it has weights for."""
        names = {name.split(".")[0] for name in self.weights}
        return sorted(name for name in names if name.startswith("text_encoder"))

    def check(self, denoiser: nn.Module, part: str, pipeline_class: Any) -> None:
        """Raise ValueError, with names and shapes, unless all of it belongs to this denoiser and its text encoders."""
        texts = self.text_parts if hasattr(pipeline_class, "load_lora_into_text_encoder") else []
        foreign = [n for n in self.weights if n.split(".")[0] not in (part, *texts)]
        if foreign:
            raise ValueError(
                f"{self.path} has {len(foreign)} weights that match nothing in a pipeline of "
                f"{type(denoiser).__name__}, such as {', '.join(foreign[:_NAMED])}; give a LoRA of this model's kind"
            )
        problems = list(_misfits(self.of(part), denoiser))
        if problems:
            raise ValueError(
                f"{self.path} is a LoRA of another model: {len(problems)} of its layers do not fit this "
                f"{type(denoiser).__name__}: {'; '.join(problems[:_NAMED])}. Give a LoRA of this base"
            )


def _misfits(weights: Mapping[str, Tensor], denoiser: nn.Module) -> Iterator[str]:
    modules = dict(denoiser.named_modules())
    for name, down in weights.items():
        if not name.endswith(_A):
            continue
        layer = name.removesuffix(_A)
        up = weights.get(layer + _B)
        module = modules.get(layer)
        if module is None:
            yield f"there is no {layer}"
        elif up is None:
            yield f"{layer} has a lora_A and no lora_B"
        elif (sides := _sides(module)) != (up.shape[0], down.shape[1]):
            here = "no weights" if sides is None else f"{sides[0]} x {sides[1]}"
            yield f"{layer} is {here} here and {up.shape[0]} x {down.shape[1]} there"


def _sides(module: Any) -> tuple[int, int] | None:
    """Return how many numbers a layer gives and takes."""
    module = getattr(module, "base_layer", module)
    for given, taken in (("out_features", "in_features"), ("out_channels", "in_channels")):
        if hasattr(module, given):
            return getattr(module, given), getattr(module, taken)
    return None


def read(path: Path, pipeline_class: Any, denoiser: Any, part: str) -> Found:
    """Return what the pipeline reads, checked; ValueError for a LoRA of something else."""
    found: list[Found] = []

    def lora_state_dict(cls: Any, *arguments: Any, **options: Any) -> Any:
        answer = pipeline_class.lora_state_dict.__func__(cls, *arguments, **options)
        weights, *alphas, metadata = answer
        found.append(Found(path, dict(weights), alphas[0] if alphas else None, metadata))
        found[0].check(denoiser, part, pipeline_class)  # before anything else happens with them
        return answer

    overrides: dict[str, Any] = {
        name: lambda *_, **__: None
        for name in dir(pipeline_class)
        if name.startswith("load_lora_into_")
    }
    overrides["lora_state_dict"] = classmethod(lora_state_dict)
    made = type(pipeline_class.__name__, (pipeline_class,), overrides)
    names = pipeline_class._get_signature_keys(pipeline_class)[0]
    with quiet(), folders.understood(path, "LoRA of this model"):
        made(**{**dict.fromkeys(names), part: denoiser}).load_lora_weights(path, **READ)
    return found[0]


def attach(found: Found, denoiser: Any, part: str, *, plainly: bool = False) -> None:
    """Put a LoRA on the denoiser; on one without weights (on the meta device) the file's tensors themselves.

    plainly: as the pipeline does, also where it mistakes the strengths of layers.
    """
    weights = found.of(part)
    with folders.understood(found.path, "LoRA of this model"):
        denoiser.load_lora_adapter(
            found.weights if plainly else {f"{part}.{name}": w for name, w in weights.items()},
            prefix=part,
            network_alphas=found.alphas if plainly else None,
            metadata=found.metadata if plainly else found.settings(part, weights),
            low_cpu_mem_usage=has_no_weights(denoiser),
        )


def has_no_weights(denoiser: nn.Module) -> bool:
    """Say whether a denoiser is on the meta device, where nothing can be copied to."""
    return next(denoiser.parameters()).is_meta


def attach_to_encoder(found: Found, pipeline_class: Any, encoder: Any, part: str) -> None:
    """Put a LoRA's weights for a text encoder on it; ValueError, with names, for those that it has no place for."""
    weights = found.of(part)
    # Newer versions of transformers' CLIP have no such level.
    root = "" if hasattr(encoder, "text_model") else "text_model."
    weights = {name.removeprefix(root): weight for name, weight in weights.items()}
    with folders.understood(found.path, "LoRA of this model"):
        pipeline_class.load_lora_into_text_encoder(
            {f"{part}.{name}": weight for name, weight in weights.items()},
            network_alphas=None,
            text_encoder=encoder,
            prefix=part,
            metadata=found.settings(part, weights, root),
        )
    there = {name for name, module in encoder.named_modules() if isinstance(module, LoraLayer)}
    lost = sorted({name.partition(".lora_")[0] for name in weights} - there)
    if lost:
        raise ValueError(
            f"{found.path} is a LoRA of another model: the {part} has no {', '.join(lost[:_NAMED])} "
            f"({len(lost)} such layers). Give a LoRA of this base"
        )


def config_of(found: Found, denoiser: Any, part: str) -> LoraConfig:
    """Return rank, alpha and layers of a denoiser's LoRA, as diffusers makes them of the file."""
    with torch.device("meta"):
        skeleton = type(denoiser).from_config(denoiser.config)
    attach(found, skeleton, part)
    return next(iter(skeleton.peft_config.values()))
