"""Processors of our own compute what diffusers' own do, and the backend is asked for the product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from diffusers.models.transformers.sana_transformer import SanaAttnProcessor2_0

from tests.models.execution.conftest import FLOW, uneven
from tests.models.helpers import perturb
from tglo import models
from tglo.models.execution import attention
from tglo.models.execution.modes import frozen_copy
from tglo.models.execution.processors import DispatchedCrossAttention, DispatchedJointAttention
from tglo.models.lora import adapters_off

MASKING = ("qwen-image", "z-image", "sana", "ltx")


def outputs_and_gradients(layer: Attention, *arguments: Any) -> list[torch.Tensor]:
    layer.zero_grad()
    outputs = layer(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((number + 1) * x.square().sum() for number, x in enumerate(outputs)).backward()
    return [*outputs, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
@pytest.mark.parametrize("kind", ["joint", "last", "image"])
def test_joint_attention_of_sd3(kind: str, qk_norm: str | None) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if kind != "image":
        options = {"added_kv_proj_dim": 16, "context_pre_only": kind == "last"}
    layer = Attention(
        query_dim=16, heads=2, dim_head=8, out_dim=16, bias=True, qk_norm=qk_norm, **options
    )
    perturb(layer)
    arguments = [torch.randn(2, 6, 16), None if kind == "image" else torch.randn(2, 5, 16)]
    found = []
    for processor in (JointAttnProcessor2_0(), DispatchedJointAttention()):
        layer.set_processor(processor)
        found.append(outputs_and_gradients(layer, *arguments))
    assert len(found[0]) > 8 and all(map(torch.equal, *found))


@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_of_sana(masked: bool, qk_norm: str | None) -> None:
    torch.manual_seed(0)
    layer = Attention(
        query_dim=16,
        cross_attention_dim=12,
        heads=2,
        dim_head=8,
        bias=True,
        qk_norm=qk_norm,
        kv_heads=None if qk_norm is None else 2,
        rescale_output_factor=1.5,
    )
    perturb(layer)
    mask = None
    if masked:
        mask = torch.zeros(2, 1, 5)
        mask[1, :, 2:] = -10_000.0
    arguments = (torch.randn(2, 6, 16), torch.randn(2, 5, 12), mask)
    found = []
    for processor in (SanaAttnProcessor2_0(), DispatchedCrossAttention()):
        layer.set_processor(processor)
        found.append(outputs_and_gradients(layer, *arguments))
    assert len(found[0]) > 8 and all(map(torch.equal, *found))


def results(family: models.Family) -> list[torch.Tensor]:
    """Predictions with the LoRA on and off, and the gradients."""
    draw = uneven(family)
    family.denoiser.zero_grad()
    policy = family.predict(family.denoiser, draw)
    policy.square().mean().backward()
    gradients = [p.grad.clone() for p in family.denoiser.parameters() if p.grad is not None]
    with torch.no_grad(), adapters_off(family.denoiser):
        return [policy.detach(), family.predict(family.denoiser, draw), *gradients]


def test_flow_families_predict_and_learn_the_same(flow: models.Family) -> None:
    flow.add_lora(2, 4.0)
    perturb(flow.denoiser)
    expected = results(flow)
    assert len(expected) > 8 and not torch.equal(*expected[:2])
    before = [type(m.processor) for m in flow.denoiser.modules() if hasattr(m, "processor")]
    attention.set_backend(flow.denoiser, "sdpa")
    assert all(map(torch.equal, results(flow), expected))
    attention.set_backend(flow.denoiser, "_native_math")
    torch.testing.assert_close(results(flow), expected, rtol=1e-4, atol=1e-6)
    attention.set_backend(flow.denoiser, "default")
    after = [type(m.processor) for m in flow.denoiser.modules() if hasattr(m, "processor")]
    assert after == before and all(map(torch.equal, results(flow), expected))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """The backends that were asked, and whether with a mask."""
    seen: list[tuple[str, bool]] = []
    for name in (AttentionBackendName.NATIVE, AttentionBackendName._NATIVE_MATH):
        own = _AttentionBackendRegistry._backends[name]

        def watch(own: Any = own, name: Any = name, **options: Any) -> torch.Tensor:
            seen.append((name.value, options["attn_mask"] is not None))
            return own(**options)

        monkeypatch.setitem(_AttentionBackendRegistry._backends, name, watch)
    yield seen


@pytest.mark.parametrize("kind", [kind for kind in FLOW if kind != "sd3"])
def test_a_choice_is_the_models_own(
    kind: str, flow_folders: dict[str, Path], asked: list[tuple[str, bool]]
) -> None:
    family, other = (models.load(flow_folders[kind], encoders=False) for _ in range(2))
    attention.set_backend(family.denoiser, "_native_math")
    attention.set_backend(other.denoiser, "sdpa")
    for denoiser, name in (
        (family.denoiser, "_native_math"),
        (frozen_copy(family.denoiser), "_native_math"),
        (other.denoiser, "native"),
    ):
        asked.clear()
        family.predict(denoiser, uneven(family, longest=40))
        assert {backend for backend, _ in asked} == {name}
        assert any(masked for _, masked in asked) == (kind in MASKING)
    asked.clear()
    pipeline = DiffusionPipeline.from_pretrained(flow_folders[kind])
    other.predict(pipeline.transformer, uneven(other))
    assert "_native_math" not in dict(asked)


@pytest.mark.parametrize("kind", FLOW)
def test_a_backend_must_take_the_masks(kind: str, flow_folders: dict[str, Path]) -> None:
    family = models.load(flow_folders[kind], encoders=False)
    if kind not in MASKING:
        attention.set_backend(family.denoiser, "_native_flash")
        return
    before = results_of_processors(family)
    with pytest.raises(ValueError, match=r"'_native_flash' does not take the mask.*set attention"):
        attention.set_backend(family.denoiser, "_native_flash")
    assert results_of_processors(family) == before


@pytest.mark.parametrize("kind", MASKING)
def test_a_mask_that_is_ignored_is_seen(
    kind: str, flow_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is that adds True and False to the scores."""
    family = models.load(flow_folders[kind], encoders=False)
    dispatch = attention.dispatch_attention_fn

    def added(*args: Any, attn_mask: Any = None, **options: Any) -> torch.Tensor:
        if attn_mask is not None:
            attn_mask = attn_mask.to(args[0]).clamp(min=-1)
        return dispatch(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(attention, "dispatch_attention_fn", added)
    with pytest.raises(ValueError, match=r"'sdpa' does not take the mask.*it is ignored"):
        attention.set_backend(family.denoiser, "sdpa")


def results_of_processors(family: models.Family) -> list[Any]:
    modules = [m for m in family.denoiser.modules() if hasattr(m, "processor")]
    return [(m.processor, getattr(m.processor, "_attention_backend", None)) for m in modules]


def test_fused_processors_are_refused(flow_folders: dict[str, Path]) -> None:
    family = models.load(flow_folders["sd3"], encoders=False)
    family.denoiser.fuse_qkv_projections()
    before = results_of_processors(family)
    with pytest.raises(ValueError, match="FusedJointAttnProcessor2_0.*undo fuse_qkv_projections"):
        attention.set_backend(family.denoiser, "sdpa")
    assert results_of_processors(family) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["cudnn", "xformers", "flash3", "flash"])
@pytest.mark.parametrize("kind", FLOW)
def test_gpu_backends_agree_with_pytorchs(
    kind: str, backend: str, flow_folders: dict[str, Path]
) -> None:
    """Those that are there and take the model's masks."""
    family = models.load(flow_folders[kind], encoders=False, dtype=torch.bfloat16, device="cuda")
    family.add_lora(2, 4.0)
    perturb(family.denoiser)
    expected = results(family)
    try:
        attention.set_backend(family.denoiser, backend)
    except ValueError as error:
        if "is missing" in str(error) or "does not take the mask" in str(error):
            pytest.skip(str(error))
        raise
    for left, right in zip(results(family), expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0.05, atol=0.05 * right.abs().max().item())
