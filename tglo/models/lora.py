"""LoRA on a diffusers model, through peft."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

ADAPTER = "default"
REFERENCE = "reference"
"""The adapter with the weights that training started from, where the reference has a LoRA too."""


def add(
    denoiser: Any,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    dropout: float = 0.0,
    seed: int = 0,
) -> None:
    """Freeze the denoiser and add trainable LoRA layers, y = W x + (alpha / rank) B A x.

    B starts at zero, so the prediction does not change; A is drawn from seed and does not depend on
    the global generator. targets: ends of the names of the linear layers. The new weights are
    float32 also on a half-precision denoiser, because updates are below its resolution. Raises
    ValueError for a rank, alpha or dropout out of range, no matching layer, or a second adapter.
    """
    if rank < 1 or alpha <= 0:
        raise ValueError(f"LoRA needs rank >= 1 and alpha > 0, not rank {rank} and alpha {alpha}")
    if not 0 <= dropout < 1:
        raise ValueError(f"LoRA dropout must be in [0, 1), not {dropout}")
    if has(denoiser):
        raise ValueError("the model already has a LoRA; load it again to add another")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft only divides by the rank
        lora_dropout=dropout,
        target_modules=list(targets),
        init_lora_weights="gaussian",
    )
    denoiser.requires_grad_(False)
    attach(denoiser, config, seed)


def attach(denoiser: Any, config: LoraConfig, seed: int = 0) -> None:
    """Add the layers that config describes, in float32; the global generators stay as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser.add_adapter(config, adapter_name=ADAPTER)
    for parameter in parameters(denoiser):
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def start(
    denoiser: Any, config: LoraConfig, weights: dict[str, Tensor], dropout: float, seed: int
) -> None:
    """Freeze the denoiser and add a LoRA with these weights (by `state_dict`'s names), trainable, in float32."""
    if has(denoiser):
        raise ValueError("the model already has a LoRA; load it again to add another")
    config = copy.deepcopy(config)
    config.lora_dropout, config.inference_mode = dropout, False
    denoiser.requires_grad_(False)
    attach(denoiser, config, seed)
    load_state_dict(denoiser, {name: weight.float() for name, weight in weights.items()})


def keep_reference(denoiser: Any) -> None:
    """Keep the LoRA's weights as they are now in a second adapter, for `reference_on`."""
    weights, kept = state_dict(denoiser), copy.deepcopy(config(denoiser))
    kept.lora_dropout = 0.0
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two are meant
        denoiser.add_adapter(kept, adapter_name=REFERENCE)
    for name, parameter in denoiser.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    set_peft_model_state_dict(denoiser, weights, adapter_name=REFERENCE)
    denoiser.set_adapter(ADAPTER)
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_("lora_" in name and f".{ADAPTER}." in name)


def adapters(denoiser: Any) -> list[str]:
    return list(getattr(denoiser, "peft_config", None) or {})


def has(denoiser: Any) -> bool:
    return bool(adapters(denoiser))


def parameters(denoiser: nn.Module) -> list[nn.Parameter]:
    """Return the LoRA weights that are trained, in the order of the module."""
    return [
        p
        for name, p in denoiser.named_parameters()
        if "lora_" in name and f".{REFERENCE}." not in name
    ]


def config(denoiser: Any) -> LoraConfig:
    return denoiser.peft_config[ADAPTER]


def strengths(denoiser: nn.Module) -> dict[str, float]:
    """Return what each layer's B A is multiplied by, alpha / rank, by the layer's name."""
    return {
        name: float(next(iter(module.scaling.values())))
        for name, module in denoiser.named_modules()
        if isinstance(module, LoraLayer)
    }


def without_bias(denoiser: nn.Module) -> list[str]:
    """Name the layers that have no bias below a LoRA that has one (peft's lora_bias)."""
    return [
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, LoraLayer)
        and any(module.lora_bias.values())
        and getattr(module.get_base_layer(), "bias", None) is None
    ]


def state_dict(denoiser: Any, weights: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the LoRA weights by name without the adapter's name, on the CPU.

    weights: a state dict to take them from instead (gathered shards), by the module's names or
    already without the adapter's name. Raises ValueError when it has none.
    """
    found = get_peft_model_state_dict(denoiser, state_dict=weights, adapter_name=ADAPTER)
    if not found:
        raise ValueError("the given state dict has no LoRA weights")
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def load_state_dict(denoiser: Any, weights: dict[str, Tensor]) -> None:
    """Set an attached LoRA's weights from `state_dict`'s form; ValueError unless all match."""
    expected = set(state_dict(denoiser))
    if set(weights) != expected:
        names = sorted(expected.symmetric_difference(weights))
        raise ValueError(f"{len(names)} LoRA weights do not match the layers, such as {names[0]}")
    set_peft_model_state_dict(denoiser, weights, adapter_name=ADAPTER)


@contextmanager
def adapters_off(denoiser: Any) -> Iterator[None]:
    """Make the LoRA layers compute what they replaced, inside; ValueError when there are none.

    The layers themselves are switched, so it also holds for a call through a wrapper.
    """
    if not has(denoiser):
        raise ValueError("the model has no LoRA to switch off; use a reference copy instead")
    layers = [m for m in denoiser.modules() if isinstance(m, BaseTunerLayer)]
    layers = [layer for layer in layers if not layer.disable_adapters]
    # The flag itself: peft's enable_adapters also rewrites requires_grad of every weight, which
    # costs 2 to 9 ms a toggle and must not change between a forward and its backward.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def has_reference(denoiser: Any) -> bool:
    return REFERENCE in adapters(denoiser)


@contextmanager
def reference_on(denoiser: Any) -> Iterator[None]:
    """Make the LoRA layers compute with the weights that training started from, inside; see `keep_reference`."""
    layers = [m for m in denoiser.modules() if isinstance(m, BaseTunerLayer)]
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [REFERENCE]
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active
