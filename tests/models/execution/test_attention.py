"""Attention through diffusers' dispatcher computes what the stock processor computes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from tests.models.helpers import example, perturb
from tglo import models
from tglo.models.execution import attention, processors
from tglo.models.execution.modes import frozen_copy
from tglo.models.execution.processors import DispatchedAttention
from tglo.models.lora import adapters_off


def prediction_and_gradients(family: models.Family) -> list[torch.Tensor]:
    family.denoiser.zero_grad()
    prediction = family.predict(family.denoiser, example(family))
    prediction.square().mean().backward()
    gradients = [p.grad for p in family.denoiser.parameters() if p.grad is not None]
    return [prediction.detach(), *(gradient.clone() for gradient in gradients)]


@pytest.mark.parametrize("lora", [False, True])
def test_unets_predict_and_learn_the_same(family: models.Family, lora: bool) -> None:
    if lora:
        family.add_lora(2, 4.0)
    perturb(family.denoiser)
    expected = prediction_and_gradients(family)
    attention.set_backend(family.denoiser, "sdpa")
    used = {type(p) for p in family.denoiser.attn_processors.values()}
    assert used == {DispatchedAttention}
    torch.testing.assert_close(prediction_and_gradients(family), expected)
    if lora:
        with adapters_off(family.denoiser):
            off = family.predict(family.denoiser, example(family))
        assert not torch.equal(off, expected[0])
        attention.set_backend(family.denoiser, "default")
        with adapters_off(family.denoiser):
            torch.testing.assert_close(family.predict(family.denoiser, example(family)), off)
    attention.set_backend(family.denoiser, "default")
    assert all(map(torch.equal, prediction_and_gradients(family), expected))


@pytest.mark.parametrize("shape", [(2, 6, 16), (2, 16, 3, 2)])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_every_option_of_the_stock_processor(
    shape: tuple[int, ...], cross: bool, masked: bool
) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"cross_attention_dim": 12, "cross_attention_norm": "layer_norm"}
    layer = Attention(
        query_dim=16,
        heads=2,
        dim_head=8,
        norm_num_groups=4,
        qk_norm="layer_norm",
        residual_connection=True,
        rescale_output_factor=1.5,
        **(options if cross else {}),
    )
    hidden, context = torch.randn(shape), torch.randn(2, 5, 12) if cross else None
    mask = None
    if masked:
        mask = torch.zeros(2, 1, 5 if cross else 6)
        mask[:, :, -2:] = -1e4
    outputs = []
    for processor in (AttnProcessor2_0(), DispatchedAttention()):
        layer.set_processor(processor)
        outputs.append(layer(hidden, encoder_hidden_states=context, attention_mask=mask))
    torch.testing.assert_close(*outputs)


def test_the_name_reaches_the_dispatcher_and_no_other_model(
    load: Callable[..., models.Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[AttentionBackendName] = []
    dispatch = processors.dispatch_attention_fn

    def watch(*args: Any, **options: Any) -> torch.Tensor:
        seen.append(options["backend"])
        return dispatch(*args, **options)

    monkeypatch.setattr(processors, "dispatch_attention_fn", watch)
    family, other = load("sd15"), load("sd15")
    attention.set_backend(family.denoiser, "_native_math")
    attention.set_backend(other.denoiser, "sdpa")
    seen.clear()
    family.predict(family.denoiser, example(family))
    assert set(seen) == {AttentionBackendName._NATIVE_MATH}
    seen.clear()
    other.predict(other.denoiser, example(other))
    assert set(seen) == {AttentionBackendName.NATIVE}
    copy = frozen_copy(family.denoiser)
    seen.clear()
    family.predict(copy, example(family))
    assert set(seen) == {AttentionBackendName._NATIVE_MATH}
    with attention_backend("native"):  # the process-wide choice is untouched
        pass


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("nativ", "unknown attention 'nativ'; nearest: native, .*valid: default, sdpa, cudnn"),
        ("xformers", "'xformers' needs a CUDA device and the model is on cpu.*'default'"),
        ("cudnn", "'cudnn' needs a CUDA device"),
        ("flash3", "'flash3' needs a CUDA device"),
        ("flex", "'flex' cannot train with torch.float32 and head size .* on cpu"),
    ],
)
def test_what_cannot_work_is_refused(
    backend: str, message: str, load: Callable[..., models.Family]
) -> None:
    family = load("sd15")
    expected = family.predict(family.denoiser, example(family))
    with pytest.raises(ValueError, match=message):
        attention.set_backend(family.denoiser, backend)
    assert torch.equal(family.predict(family.denoiser, example(family)), expected)


@pytest.mark.parametrize(
    ("backend", "package", "message"),
    [
        ("xformers", "xformers", r"'xformers' is missing: .*pip install \"\.\[xformers\]\""),
        ("flash", "flash-attn", "'flash' is missing: .*flash-attn"),
        ("flash3", "kernels", "'flash3' is missing: .*pip install kernels"),
    ],
)
def test_a_missing_package_is_named(backend: str, package: str, message: str) -> None:
    if any(package == found.name for found in metadata.distributions()):
        pytest.skip(f"{package} is installed")
    name = attention.ALIASES.get(backend, backend)
    with pytest.raises(ValueError, match=message):
        attention._check(backend, name, torch.device("cuda"), torch.bfloat16, {64})


def test_a_backend_without_a_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attention, "dispatch_attention_fn", lambda q, k, v, **_: (q + k + v).detach()
    )
    with pytest.raises(ValueError, match="cannot train.*does not require grad"):
        attention._check("sdpa", "native", torch.device("cpu"), torch.float32, {8})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["cudnn", "xformers", "flash3", "flash", "_native_flash"])
def test_gpu_backends_agree_with_pytorchs(backend: str, load: Callable[..., models.Family]) -> None:
    family = load("sdxl", dtype=torch.bfloat16, device="cuda")
    expected = prediction_and_gradients(family)
    try:
        attention.set_backend(family.denoiser, backend)
    except ValueError as error:
        if "is missing" in str(error):
            pytest.skip(str(error))
        raise
    found = prediction_and_gradients(family)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0.05, atol=0.05 * right.abs().max().item())
