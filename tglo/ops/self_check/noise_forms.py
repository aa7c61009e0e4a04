"""The calls of the noising that are tried: its bits are those of tglo/philox.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from tglo import philox, reference
from tglo.ops.library import operator
from tglo.ops.self_check.figures import Figure, Form, Outputs, same_bits

_SEED, _PURPOSE = 2**32 - 2, philox.POSTERIOR
_IDS, _DRAWS = (0, 2**32 + 5, 2**63 - 1), (2**32 - 1, 0, 1)
_SCALES, _NOISE_SCALES = (0.9, 0.5, 0.1), (0.3, 0.8, 1.0)


def forms() -> Iterator[Form]:
    """Make every form of the noising."""
    for name, shape, dtype in (
        ("bf16", (3, 4, 400), torch.bfloat16),
        ("fp16, odd rows", (3, 1001), torch.float16),
        ("fp32, odd rows", (3, 2051), torch.float32),
    ):
        form = f"diffuse, {name}"
        launch = partial(_launch, shape, dtype)
        yield Form(form, launch, partial(_judge, shape, dtype, form), brief=True)


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    random = torch.Generator("cpu").manual_seed(0)
    latents = torch.randn(shape, generator=random, device="cpu", dtype=torch.float32)
    scales = (torch.tensor(x, device="cpu", dtype=torch.float32) for x in (_SCALES, _NOISE_SCALES))
    keys = (torch.tensor(x, device="cpu", dtype=torch.int64) for x in (_IDS, _DRAWS))
    return latents.to(dtype), *scales, *keys


def _launch(
    shape: tuple[int, ...], dtype: torch.dtype, triton: bool, device: torch.device
) -> Outputs:
    inputs = (tensor.to(device) for tensor in _inputs(shape, dtype))
    return (operator("diffuse", triton)(*inputs, _SEED, _PURPOSE),)


def _judge(shape: tuple[int, ...], dtype: torch.dtype, form: str, found: Outputs) -> Figure:
    latents, scale, noise_scale, ids, draws = _inputs(shape, dtype)
    noise = philox.normal(_SEED, ids, draws, shape[1:], _PURPOSE, torch.device("cpu"))
    exact = reference.noised(latents, noise, scale, noise_scale)
    return same_bits(form, "their bits", found[0], exact)
