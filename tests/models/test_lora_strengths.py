"""Each layer of a kohya file has the rank and alpha that the file states for it, beside a sum by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.models.helpers import example
from tests.models.test_export import render
from tglo import models
from tglo.models import lora

# A layer of the UNet, its rank and alpha; None: the file has no alpha, which is alpha = rank. 0 is the same.
LAYERS: dict[str, tuple[int, float | None]] = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (2, 1.0),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0": (4, 8.0),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (2, None),
    "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj": (3, 2.0),
    "down_blocks.1.attentions.0.proj_in": (2, 0.0),
    "down_blocks.0.resnets.0.conv1": (2, 1.0),
    "down_blocks.0.resnets.0.time_emb_proj": (2, 1.0),
    "conv_out": (2, 5.0),
}
TEXTS: dict[str, tuple[int, float | None]] = {
    "encoder.layers.0.self_attn.q_proj": (2, 1.0),
    "encoder.layers.0.self_attn.v_proj": (3, 6.0),
    "encoder.layers.1.mlp.fc1": (2, None),
    "encoder.layers.1.mlp.fc2": (2, 1.0),
}


def merged_by_hand(
    weights: dict[str, torch.Tensor],
    model: torch.nn.Module,
    layers: dict[str, tuple[int, float | None]],
    prefix: str,
) -> None:
    """Put random weights of a LoRA among `weights`, in kohya's names, and what they mean into the model's own."""
    modules = dict(model.named_modules())
    for seed, (name, (rank, alpha)) in enumerate(layers.items()):
        module = modules.get(name) or modules[f"text_model.{name}"]
        generator = torch.Generator().manual_seed(seed)
        given, taken, *kernel = module.weight.shape
        down = 0.3 * torch.randn((rank, taken, *kernel), generator=generator)
        up = 0.3 * torch.randn((given, rank, *[1 for _ in kernel]), generator=generator)
        flat = f"{prefix}_{name.replace('.', '_')}"
        weights |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        if alpha is not None:
            weights[f"{flat}.alpha"] = torch.tensor(alpha)
        change = (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
        module.weight.data += (alpha or rank) / rank * change


@pytest.fixture(scope="module")
def example_of(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base, a LoRA of it with weights for the text encoder, and the base with it merged by hand."""
    root = tmp_path_factory.mktemp("strengths")
    base = tiny.build_sd15(root / "base")
    pipeline = DiffusionPipeline.from_pretrained(base)
    weights: dict[str, torch.Tensor] = {}
    merged_by_hand(weights, pipeline.unet, LAYERS, "lora_unet")
    merged_by_hand(weights, pipeline.text_encoder, TEXTS, "lora_te_text_model")
    save_file(weights, root / "lora.safetensors")
    pipeline.save_pretrained(root / "merged")
    return base, root / "lora.safetensors", root / "merged"


@pytest.mark.parametrize("how", ["load_lora", "start_from_lora"])
@torch.no_grad()
def test_the_strength_of_each_layer(example_of: tuple[Path, Path, Path], how: str) -> None:
    base, file, merged = example_of
    expected, found = models.load(merged), models.load(base)
    if how == "load_lora":
        found.load_lora(file)
    else:
        read = found.read_lora(file)
        found.start_from_lora(read)
        found.use_text_lora(read)
    draw = example(expected)
    answers = [family.predict(family.denoiser, draw) for family in (expected, found)]
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-4)
    texts = [family.text(["a cat"])["prompt_embeds"] for family in (expected, found)]
    torch.testing.assert_close(texts[1], texts[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_exported_again_and_read_by_diffusers(
    example_of: tuple[Path, Path, Path], layout: str, tmp_path: Path
) -> None:
    base, file, merged = example_of
    family = models.load(base)
    read = family.read_lora(file)
    family.start_from_lora(read)
    config = lora.config(family.denoiser)
    assert config.alpha_pattern and config.rank_pattern
    pipeline = DiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(family.save_lora(tmp_path / "lora", layout=layout))
    expected = DiffusionPipeline.from_pretrained(merged)
    expected.text_encoder = DiffusionPipeline.from_pretrained(base).text_encoder
    torch.testing.assert_close(render(pipeline), render(expected), atol=1e-3, rtol=1e-3)


def test_a_uniform_file_is_read_as_before(
    load: Callable[..., models.Family], tmp_path: Path
) -> None:
    family = load("sd15")
    family.add_lora(3, 6.0)
    path = family.save_lora(tmp_path / "lora", layout="kohya")
    again = load("sd15")
    again.start_from_lora(again.read_lora(path))
    config = lora.config(again.denoiser)
    assert (config.r, config.lora_alpha) == (3, 6.0)
    assert not config.rank_pattern and not config.alpha_pattern


def test_norms_and_layers_that_diffusers_would_leave_out_are_refused(
    example_of: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, file, _ = example_of
    weights, family = load_file(file), models.load(base)
    name = next(n for n in weights if n.endswith("to_q.lora_down.weight"))
    dora = {name.replace("lora_down.weight", "dora_scale"): torch.ones(8, 1)}
    save_file(weights | dora, tmp_path / "dora.safetensors")
    with pytest.raises(ValueError, match=r"is a DoRA in kohya's layout .*merge it into its base"):
        family.load_lora(tmp_path / "dora.safetensors")
    deep = {n.replace("layers_0", "layers_7"): weight for n, weight in weights.items()}
    save_file(deep, tmp_path / "deep.safetensors")
    with pytest.raises(ValueError, match=r"the text_encoder has no encoder.layers.7.*of this base"):
        family.load_lora(tmp_path / "deep.safetensors")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_no_number_is_named(
    alpha: float, example_of: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, file, _ = example_of
    weights, family = load_file(file), models.load(base)
    name = next(n for n in weights if n.endswith("to_q.alpha"))
    save_file(weights | {name: torch.tensor(alpha)}, tmp_path / "l.safetensors")
    with pytest.raises(ValueError, match=rf"the alpha of down_blocks.*to_q is {alpha}"):
        family.load_lora(tmp_path / "l.safetensors")
