"""Frozen weights below a LoRA in 8 or 4 bits, in bitsandbytes' own formats.

diffusers' `quantization_config` makes such layers too, on a GPU only. bitsandbytes' product of 8 bits rounds the input
as well, by way of fp16; torchao's keeps all weights in half precision for the backward. So the 8-bit layer here
multiplies with the weights made whole again, as the 4-bit one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tglo.console.extras import install
from tglo.settings import QUANTIZED


def require(kind: str) -> None:
    """Raise ImportError, with the remedy, where int8 or nf4 lack their package; other kinds need none."""
    if kind in QUANTIZED:
        _bitsandbytes(kind)


def fingerprint(kind: str) -> dict[str, str]:
    """Return what a model's answers depend on because its weights are quantised, name -> text; {} if not."""
    return {"base_weights": kind} if kind in QUANTIZED else {}


def quantize(denoiser: nn.Module, kind: str, device: torch.device | str) -> None:
    """Freeze a denoiser and quantise the linear layers of its blocks in place, each on `device` in turn; what is
    computed with them has the weights' present dtype. kind: int8 (a scale for each row) or nf4 (one for 64 weights).
    ValueError for a denoiser that has no such layers.
    """
    convert = _to_int8 if kind == "int8" else _to_nf4()
    places = [(parent, name) for parent, name, _ in _with_parents(denoiser)]
    if not places:
        raise ValueError(
            f"{type(denoiser).__name__} has no linear layers in repeated blocks to quantise to {kind}; use "
            "model.base_weights = half"
        )
    denoiser.requires_grad_(False)
    for parent, name in places:  # without the layers themselves, each of which is freed in its turn
        setattr(parent, name, convert(getattr(parent, name), device))
    denoiser.quantized = kind  # type: ignore[assignment]
    # What peft asks before it puts a LoRA on bitsandbytes' layers.
    denoiser.is_loaded_in_4bit = kind == "nf4"  # type: ignore[assignment]


def kind_of(denoiser: Any) -> str | None:
    """Return the kind that a denoiser was quantised to; None for one that was not."""
    return getattr(denoiser, "quantized", None)


def layers(denoiser: nn.Module) -> Iterator[nn.Linear]:
    """Yield the layers that `quantize` converts: the frozen linear ones of the repeated blocks.

    Embeddings of time, text and latents and the last projection lie outside: they are small, and errors in them
    reach everything.
    """
    for _, _, layer in _with_parents(denoiser):
        yield layer


def floating_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's weights: quantised ones apart, and those that its class keeps in float32
    when it is loaded in half precision (Wan's embedding of time, its norms and modulations).
    """
    inner = getattr(module, "module", module)  # of a wrapper
    kept = getattr(inner, "_keep_in_fp32_modules", None) or ()
    dtypes = (
        weights.dtype
        for name, weights in module.named_parameters()
        if weights.is_floating_point() and not any(part in name for part in kept)
    )
    return next(dtypes)


def convert_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert all weights but quantised ones, in place, as DeepSpeed does: buffers, such as the angles of a rotary
    embedding, keep their precision.
    """
    for weights in module.parameters():
        if weights.is_floating_point() and weights.dtype != dtype:
            weights.data = weights.data.to(dtype)


def floating_dtypes(module: nn.Module) -> set[torch.dtype]:
    """Return the dtypes of all of a module's weights, quantised ones apart."""
    return {weights.dtype for weights in module.parameters() if weights.is_floating_point()}


def _with_parents(module: nn.Module, inside: bool = False) -> Iterator[tuple[nn.Module, str, Any]]:
    for name, child in module.named_children():
        within = inside or isinstance(child, nn.ModuleList)
        if within and isinstance(child, nn.Linear) and not _is_lora(module):
            yield module, name, child
        yield from _with_parents(child, within)


def _is_lora(parent: nn.Module) -> bool:
    return isinstance(parent, nn.ModuleDict) and any(p.requires_grad for p in parent.parameters())


def _bitsandbytes(kind: str) -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError(
            f"model.base_weights = {kind} needs bitsandbytes: {install('bnb')}, or use "
            "model.base_weights = half"
        ) from error
    return bitsandbytes


Convert = Callable[[nn.Linear, torch.device | str], nn.Module]


@lru_cache(maxsize=1)
def _to_nf4() -> Convert:
    bitsandbytes = _bitsandbytes("nf4")

    class Nf4Linear(bitsandbytes.nn.Linear4bit):  # type: ignore[name-defined, misc]
        """bitsandbytes' layer, answering in the dtype it computes in, as a linear layer does under autocast."""

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = super().forward(x.to(self.compute_dtype))
            return answer

        # Without the scales, which loading would not know: the folder has them.
        _save_to_state_dict = nn.Module._save_to_state_dict

    def convert(layer: nn.Linear, device: torch.device | str) -> nn.Module:
        converted = Nf4Linear(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=layer.weight.dtype,
            device="meta",
        )
        weight = layer.weight.data.contiguous()
        converted.weight = bitsandbytes.nn.Params4bit(
            weight,
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=False,
            module=converted,
        ).to(device)
        converted.bias = layer.bias
        # On some CPUs it would pack its weights at the first prediction in eval mode, for kernels without a gradient.
        converted.support_avx512bf16_for_cpu = False
        return converted.train(layer.training)

    return convert


class Int8Linear(nn.Linear):
    """A frozen linear layer of 8-bit weights with a scale for each row."""

    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return _Int8Product.apply(x, self.weight, self.scale, self.bias)  # type: ignore[no-any-return]


class _Int8Product(torch.autograd.Function):
    """x W^T + b, of which the backward needs the 8-bit weights alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.dtype = x.dtype
        return F.linear(x.to(scale.dtype), weight.to(scale.dtype) * scale, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        weight, scale = ctx.saved_tensors
        whole = weight.to(scale.dtype) * scale
        return (gradient.to(scale.dtype) @ whole).to(ctx.dtype), None, None, None


def _to_int8(layer: nn.Linear, device: torch.device | str) -> nn.Module:
    functional = _bitsandbytes("int8").functional
    weight = layer.weight.data.to(device)
    values, largest, _ = functional.int8_vectorwise_quant(weight.half())
    converted = Int8Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    converted.weight = nn.Parameter(values, requires_grad=False)
    converted.register_buffer(
        "scale", (largest / 127).to(weight.dtype).unsqueeze(1), persistent=False
    )
    converted.bias = layer.bias
    return converted.train(layer.training)
