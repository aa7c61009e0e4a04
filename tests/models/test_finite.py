"""What is not finite stops the sampling, with prompt, seed and cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny
from tglo import models
from tglo.settings import SamplingOptions

OPTIONS = SamplingOptions(2, 1.0)


def damage(parameter: torch.Tensor, value: float = float("nan")) -> None:
    with torch.no_grad():
        parameter.view(-1)[0] = value


@pytest.mark.parametrize("part", ["denoiser", "vae", "vae's last", "text_encoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_named(
    load: Callable[..., models.Family], part: str, value: float
) -> None:
    family = load("sd15")
    damaged, named = {
        "denoiser": (family.denoiser.conv_in.bias, r"conv_in\.bias of .*/unet"),
        "vae": (family.vae.decoder.conv_in.bias, r"decoder\.conv_in\.bias of .*/vae"),
        "vae's last": (family.vae.decoder.conv_out.bias, r"decoder\.conv_out\.bias of .*/vae"),
        "text_encoder": (
            family.text_encoders[0].get_input_embeddings().weight[512],  # of the start
            r"embeddings\.token_embedding\.weight of .*/text_encoder",
        ),
    }[part]
    damage(damaged, value)
    what = "the pixels" if part.startswith("vae") else "the latents"
    with pytest.raises(
        FloatingPointError,
        match=rf"{what} of 2 of 2 images .* 'a cat' with seed 7: {named} is not finite.* download",
    ):
        family.generate(["a cat", "a dog"], [7, 8], OPTIONS)


def test_of_a_batch_the_image_that_fails_is_named(load: Callable[..., models.Family]) -> None:
    family = load("sd15")
    letter = family.tokenizers[0]("z").input_ids[1]
    damage(family.text_encoders[0].get_input_embeddings().weight[letter])
    with pytest.raises(FloatingPointError, match="1 of 3 images .* prompt 'a z b' with seed 5"):
        family.generate(["a cat", "a z b", "a dog"], [4, 5, 6], OPTIONS)


def test_a_damaged_lora_is_named_as_one(load: Callable[..., models.Family]) -> None:
    family = load("sd15")
    family.add_lora(2, 2.0)
    damage(next(p for p in family.denoiser.parameters() if p.requires_grad))
    with pytest.raises(FloatingPointError, match=r"lora_.* \(of a LoRA\) is not finite"):
        family.generate(["a cat"], [0], OPTIONS)


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        (torch.float16, "fp16 overflows above 65504; use bf16 or fp32"),
        (torch.bfloat16, "all weights are finite, so the model overflows here; use fp32"),
    ],
)
def test_overflow_names_the_remedy(
    load: Callable[..., models.Family], dtype: torch.dtype, remedy: str
) -> None:
    family = load("sd15", dtype=dtype)
    largest = torch.finfo(dtype).max
    with torch.no_grad():
        family.denoiser.conv_out.weight.fill_(largest)
        family.denoiser.conv_out.bias.fill_(largest)
    with pytest.raises(FloatingPointError, match=remedy):
        family.generate(["a cat"], [0], OPTIONS)


@pytest.mark.parametrize("build", [tiny.build_amused, tiny.build_meissonic])
def test_logits_of_a_masked_model_are_checked(
    build: Callable[[Path], Path], tmp_path: Path
) -> None:
    family = models.load(build(tmp_path / "model"))
    damage(family.denoiser.head.weight)
    with pytest.raises(
        FloatingPointError, match=r"the logits of 1 of 1 images .* 'a cat' with seed 3: .*weight of"
    ):
        family.generate(["a cat"], [3], replace(OPTIONS, height=32, width=32))
