"""Linear layers in 8 and 4 bits: their answers, gradients and bytes, and which layers they replace."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from tests import tiny, tiny_flow
from tglo import models
from tglo.models import lora, quantization
from tglo.models.execution.modes import evaluating
from tglo.models.quantization import floating_dtype, kind_of, layers, quantize

pytest.importorskip("bitsandbytes", reason="int8 and nf4 are formats of bitsandbytes")
KINDS = ("int8", "nf4")
# Root mean square error of weights from a normal distribution, relative to theirs: a row's largest of
# 512 is 3.1, in 127 steps of which int8 errs by 1 / sqrt(12) each.
ERRORS = {"int8": 0.0071, "nf4": 0.092}


def block(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear layer in a list of blocks, an input (7, 512) and its answer (7, 96)."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(512, 96)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(96, 512, generator=generator))
    module = nn.ModuleDict({"blocks": nn.ModuleList([layer])}).to(dtype)
    x = torch.randn(7, 512, generator=generator).to(dtype)
    return module, x, layer(x).detach()


def whole(module: nn.Module) -> Tensor:
    """The quantised layer's weights, (96, 512), as its answers to unit vectors."""
    layer = module["blocks"][0]  # type: ignore[index]
    dtype = floating_dtype(module)
    bias = 0 if layer.bias is None else layer.bias
    return (layer(torch.eye(512, dtype=dtype)) - bias).T.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_format(kind: str) -> None:
    module, _, _ = block()
    before = module["blocks"][0].weight.detach().clone()  # type: ignore[index]
    quantize(module, kind, "cpu")
    error = (whole(module) - before).square().mean().sqrt() / before.square().mean().sqrt()
    assert error == pytest.approx(ERRORS[kind], rel=0.1)
    assert kind_of(module) == kind and kind_of(nn.Linear(1, 1)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_gradients_are_those_of_the_weights_made_whole(
    kind: str, dtype: torch.dtype
) -> None:
    module, x, _ = block(dtype)
    quantize(module, kind, "cpu")
    layer = module["blocks"][0]  # type: ignore[index]
    weights = whole(module)
    x.requires_grad_()
    answer = layer(x)
    assert answer.dtype == dtype
    answer.float().square().sum().backward()
    expected = x.detach().clone().requires_grad_()
    nn.functional.linear(expected, weights, layer.bias).float().square().sum().backward()
    torch.testing.assert_close(
        x.grad, expected.grad, rtol=2e-2, atol=2e-2 * float(x.grad.abs().max())
    )
    again = layer(x.detach())  # without a gradient, as a reference
    assert torch.equal(answer, again)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_in_the_dtype_of_computing_whatever_the_input(kind: str) -> None:
    """Autocast leaves normalisations in float32: the layers behind them must not follow."""
    module, x, _ = block(torch.bfloat16)
    quantize(module, kind, "cpu")
    layer = module["blocks"][0]  # type: ignore[index]
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(x.float().requires_grad_())
    assert answer.dtype == torch.bfloat16
    answer.float().sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_needs_the_quantised_weights_alone(kind: str) -> None:
    module, x, _ = block(torch.bfloat16)
    quantize(module, kind, "cpu")
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module["blocks"][0](x.requires_grad_())  # type: ignore[index]
    assert not any(t.is_floating_point() and t.numel() >= 96 * 512 for t in saved)


@pytest.mark.parametrize("kind", KINDS)
def test_eval_mode_leaves_no_trace(kind: str) -> None:
    """bitsandbytes would pack weights for some CPUs then, for a product without a gradient."""
    module, x, _ = block(torch.bfloat16)
    quantize(module, kind, "cpu")
    layer = module["blocks"][0]  # type: ignore[index]
    before = layer(x)
    bits = layer.weight.clone()
    with evaluating(module), torch.no_grad():
        assert torch.equal(layer(x), before)
    assert torch.equal(layer.weight, bits)
    assert torch.equal(copy.deepcopy(module)["blocks"][0](x), before)


def test_linear_layers_of_blocks_are_converted_and_no_others(tmp_path: Path) -> None:
    """Embeddings, the last projection and a LoRA's own layers stay as they are."""
    family = models.load(tiny_flow.build_flux(tmp_path / "flux"), encoders=False)
    found = {id(layer) for layer in layers(family.denoiser)}
    names = {name for name, m in family.denoiser.named_modules() if id(m) in found}
    assert names and all(name.startswith(("transformer_blocks.", "single_")) for name in names)
    assert "transformer_blocks.0.norm1.linear" in names and "proj_out" not in names
    family.quantize("int8", "cpu")
    family.add_lora(2, 2)
    assert {id(layer) for layer in layers(family.denoiser)}.isdisjoint(
        id(m) for name, m in family.denoiser.named_modules() if "lora_" in name
    )
    assert len(list(layers(family.denoiser))) == len(names)
    assert family.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in lora.parameters(family.denoiser))


def test_a_unets_convolutions_stay(tmp_path: Path) -> None:
    family = models.load(tiny.build_sd15(tmp_path / "sd15"), encoders=False)
    family.quantize("nf4", "cpu")
    kinds = {type(m).__name__ for m in family.denoiser.modules() if hasattr(m, "weight")}
    assert {"Conv2d", "Nf4Linear", "Linear"} <= kinds


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no linear layers .* use .* = half"):
        quantize(nn.Linear(4, 4), "nf4", "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_is_exported_with_the_folders_own_weights(kind: str, tmp_path: Path) -> None:
    """Neither quantised weights nor ones made whole again are written."""
    folder = tiny_flow.build_flux(tmp_path / "flux")
    family = models.load(folder, encoders=False, dtype=torch.bfloat16)
    family.quantize(kind, "cpu")
    with pytest.raises(ValueError, match=f"quantised to {kind} and has no LoRA"):
        family.save(tmp_path / "none")
    family.add_lora(2, 2)
    for weight in lora.parameters(family.denoiser):
        weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    family.save(tmp_path / "merged")
    family.save_lora(tmp_path / "lora")
    merged = DiffusionPipeline.from_pretrained(tmp_path / "merged").transformer
    plain = DiffusionPipeline.from_pretrained(folder)
    untouched = "transformer_blocks.0.ff.net.2.weight"
    rounded = plain.transformer.get_parameter(untouched).bfloat16().float()
    assert torch.equal(merged.get_parameter(untouched), rounded)
    plain.load_lora_weights(tmp_path / "lora")
    plain.fuse_lora()
    name = "transformer_blocks.0.attn.to_q"
    expected = plain.transformer.get_submodule(name).get_base_layer().weight
    torch.testing.assert_close(
        merged.get_parameter(f"{name}.weight"), expected, rtol=1e-2, atol=1e-3
    )


def test_fingerprints_tell_kinds_apart_and_leave_the_default_out() -> None:
    assert quantization.fingerprint("default") == quantization.fingerprint("half") == {}
    assert quantization.fingerprint("int8") != quantization.fingerprint("nf4")
