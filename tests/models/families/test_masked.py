"""Masked models: tokens, logits as diffusers', the error out of the forward pass, MaskGIT decoding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch._dynamo.utils import counters

import tglo
from tests import tiny
from tests.models.helpers import perturb
from tglo import models, philox, reference
from tglo.data.manifest import read_manifest
from tglo.generation.generate import generate_images
from tglo.models import fingerprint, lora, lora_files
from tglo.models.execution import attention, compiling
from tglo.models.execution.checkpointing import MODES, set_mode
from tglo.models.execution.modes import frozen_copy
from tglo.models.families.masked import MaskedFamily
from tglo.models.readback import ExportError
from tglo.noise.draw import Draw
from tglo.settings import SamplingOptions
from tglo.train.reference_policy import keep_products_in

BUILDERS = {"amused": tiny.build_amused, "meissonic": tiny.build_meissonic}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("masked")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(params=list(BUILDERS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(kind: str, folders: dict[str, Path]) -> MaskedFamily:
    found = models.load(folders[kind])
    assert isinstance(found, MaskedFamily) and found.name == kind
    return found


def logits_of(family: MaskedFamily, draw: Draw, denoiser: Any = None) -> Tensor:
    """The denoiser's logits (B, V, h, w)."""
    denoiser = denoiser or family.denoiser
    return family.call(denoiser, draw.noisy, family.timesteps(draw), draw.conditions)


def by_hand(family: MaskedFamily, logits: Tensor, noisy: Tensor, target: Tensor) -> Tensor:
    """The error from whole logits (B, V, h, w)."""
    logits = logits.flatten(2).transpose(1, 2)
    mask = (noisy == family.schedule.mask_token).flatten(1)
    return reference.token_error(
        reference.picked_log_prob(logits.double(), target.flatten(1)), mask
    )


def test_what_a_folder_says_of_itself(family: MaskedFamily) -> None:
    assert (family.spatial_scale, family.bucket_step, family.default_temperature) == (2, 4, 1.0)
    assert family.schedule.mask_token == tiny.CODEBOOK + 7
    assert fingerprint.denoiser(family)["schedule"] == f"cosine {tiny.CODEBOOK + 7}"
    assert {"vqvae", "text_encoder", "tokenizer"} < fingerprint.encoders(family).keys()


def test_the_error_is_that_of_the_logits_and_so_is_its_gradient(family: MaskedFamily) -> None:
    draw = family.example(3, 16, 24)
    error = family.predict(family.denoiser, draw)
    assert error.shape == (3,) and error.dtype == torch.float64
    logits = logits_of(family, draw)
    assert logits.shape == (3, tiny.CODEBOOK, 8, 12)
    expected = by_hand(family, logits, draw.noisy, draw.target)
    torch.testing.assert_close(error, expected, rtol=1e-6, atol=0)

    parameters = list(family.denoiser.parameters())
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    mine = torch.autograd.grad((weights * error).sum(), parameters, allow_unused=True)
    theirs = torch.autograd.grad((weights * expected).sum(), parameters, allow_unused=True)
    for ours, other in zip(mine, theirs, strict=True):
        assert (ours is None) == (other is None)
        if ours is not None and other is not None:
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_the_head_may_be_left_to_the_drop_in_functions(family: MaskedFamily) -> None:
    draw = family.example(2, 16, 16)
    hidden: list[Tensor] = []
    family.denoiser.head.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    logits = logits_of(family, draw)
    mask = (draw.noisy == family.schedule.mask_token).flatten(1)
    weight = family.denoiser.head.weight.flatten(1)
    log_prob = tglo.token_log_prob(
        hidden[0].flatten(2).transpose(1, 2), weight, draw.target.flatten(1), mask
    )
    picked = logits.log_softmax(1).gather(1, draw.target[:, None])[:, 0].flatten(1)
    torch.testing.assert_close(log_prob, torch.where(mask, picked, 0.0), rtol=1e-5, atol=1e-6)


def test_wrappers_return_the_error(family: MaskedFamily) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: object, **kwargs: object) -> Tensor:
            return self.module(*args, **kwargs)

    draw = family.example(2, 16, 16)
    expected = family.predict(family.denoiser, draw)
    assert torch.equal(family.predict(Wrapper(family.denoiser), draw), expected)
    assert torch.equal(family.predict(frozen_copy(family.denoiser), draw), expected)
    assert logits_of(family, draw).dim() == 4  # nothing is left behind


def test_lora_off_is_the_base_bit_for_bit(family: MaskedFamily) -> None:
    draw = family.example(2, 16, 16)
    base = family.predict(family.denoiser, draw)
    family.add_lora(2, 2.0)
    assert torch.equal(family.predict(family.denoiser, draw), base)
    perturb(family.denoiser)
    assert not torch.equal(family.predict(family.denoiser, draw), base)
    with lora.adapters_off(family.denoiser):
        assert torch.equal(family.predict(family.denoiser, draw), base)


def test_half_precision_and_autocast(family: MaskedFamily) -> None:
    draw = family.example(2, 16, 16)
    expected = family.predict(family.denoiser, draw)
    with torch.autocast("cpu", torch.bfloat16):
        cast = family.predict(family.denoiser, draw)
    torch.testing.assert_close(cast, expected, rtol=0.03, atol=0)
    half = family.predict(family.to(dtype=torch.bfloat16).denoiser, draw)
    assert half.dtype == torch.float64
    torch.testing.assert_close(half, expected, rtol=0.03, atol=0)
    assert family.vae.dtype == torch.float32


def test_a_heads_bias_is_rounded_as_autocast_rounds_it(tmp_path: Path) -> None:
    """Then a copy whose weights were rounded once answers what the policy does, bit for bit."""
    family = models.load(tiny.build_amused(tmp_path / "m", use_bias=True))
    torch.nn.init.normal_(family.denoiser.head.bias)
    copy = frozen_copy(family.denoiser)
    keep_products_in(copy, torch.bfloat16)
    draw = family.example(2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        error = family.predict(family.denoiser, draw)
        assert torch.equal(family.predict(copy, draw), error)
    assert error.requires_grad


def test_targets_and_mask_come_together(family: MaskedFamily) -> None:
    draw = family.example(1, 16, 16)
    hidden = torch.zeros(1, family.denoiser.head.in_channels, 8, 8)
    for given, message in (
        ((draw.target, None), "targets given without mask"),
        ((None, draw.target > 0), "mask given without targets"),
    ):
        with pytest.raises(ValueError, match=message), family.denoiser.head.scoring(*given):
            family.denoiser.head(hidden)


def test_conditions_flip_the_size_and_keep_every_pixel(family: MaskedFamily) -> None:
    sizes = {"original_size": torch.tensor([[1023, 700]]), "crop": torch.tensor([[3, 5]])}
    conditions = family.conditions(family.text(["a"]), sizes)
    assert conditions["micro_conds"].tolist() == [[700.0, 1023.0, 3.0, 5.0, 6.0]]
    with pytest.raises(ValueError, match="needs sizes"):
        family.conditions(family.text(["a"]))


def test_tokens_are_the_nearest_codebook_vectors(family: MaskedFamily) -> None:
    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = family.encode(pixels)["tokens"]
    assert tokens.shape == (2, 8, 12) and tokens.dtype == torch.int32
    latents = family.vae.encode((pixels + 1) / 2).latents.permute(0, 2, 3, 1)
    distance = (latents[..., None, :] - family.vae.quantize.embedding.weight).square().sum(-1)
    assert torch.equal(tokens.long(), distance.argmin(-1))
    assert tokens.unique().numel() > 4


def test_images_follow_from_prompt_and_seed_whatever_the_batch(family: MaskedFamily) -> None:
    prompts, seeds = ["a cat", "a dog", "a cat"], [3, 4, 5]
    options = SamplingOptions(3, 2.0, height=16, width=24)
    together = family.generate(prompts, seeds, options)
    assert [image.size for image in together] == [(24, 16)] * 3
    for i in range(3):
        alone = family.generate(prompts[i : i + 1], seeds[i : i + 1], options)
        difference = np.asarray(alone[0]).astype(int) - np.asarray(together[i])
        assert np.abs(difference).max() <= 1
    assert together[0].tobytes() != together[2].tobytes()
    with pytest.raises(ValueError, match="multiples of 4 pixels"):
        family.generate(["a"], [0], SamplingOptions(height=18, width=16))
    with pytest.raises(ValueError, match=r"choice_temperature -1.0 must be at least 0"):
        family.generate(["a"], [0], SamplingOptions(choice_temperature=-1.0))


def test_the_command_makes_images_with_a_lora(
    family: MaskedFamily, kind: str, tmp_path: Path
) -> None:
    family.add_lora(2, 4.0)
    perturb(family.denoiser)
    family.save_lora(tmp_path / "lora")
    sampling = SamplingOptions(2, 2.0, height=16, width=16)
    options = {"options": sampling, "device": "cpu"}
    for name, folder in (("base", None), ("tuned", tmp_path / "lora")):
        made = generate_images(str(family.path), ["a cat"], tmp_path / name, lora=folder, **options)
        assert len(read_manifest(made, require_scores=False).rows) == 1
    with pytest.raises(ValueError, match="lora"):
        generate_images(str(family.path), ["a cat"], tmp_path / "tuned", **options)


def test_an_export_computes_what_was_trained(
    family: MaskedFamily, folders: dict[str, Path], tmp_path: Path
) -> None:
    family.denoiser.requires_grad_(True)
    perturb(family.denoiser)
    draw = family.example(2, 16, 16)
    expected = family.predict(family.denoiser, draw)
    weights = dict(family.denoiser.named_parameters())  # as an engine gathers them
    for number, state in enumerate((None, weights)):
        folder = family.save(tmp_path / str(number), state_dict=state)
        again = models.load(folder)
        assert torch.equal(again.predict(again.denoiser, draw), expected)
        files = {str(p.relative_to(folder)) for p in folder.rglob("*")}
        original = {str(p.relative_to(family.path)) for p in family.path.rglob("*")}
        assert files == original
    broken = family.denoiser.head.weight
    with torch.no_grad():
        broken.fill_(float("nan"))
    with pytest.raises(ExportError, match="nothing was written"):
        family.save(tmp_path / "broken")


def test_a_lora_exports_merged_and_alone(
    family: MaskedFamily, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    family.add_lora(2, 4.0)
    perturb(family.denoiser)
    draw = family.example(2, 16, 16)
    expected = family.predict(family.denoiser, draw)
    merged = models.load(family.save(tmp_path / "merged"))
    torch.testing.assert_close(merged.predict(merged.denoiser, draw), expected, rtol=1e-4, atol=0)
    family.save_lora(tmp_path / "lora")
    again = models.load(folders[kind])
    again.load_lora(tmp_path / "lora")
    torch.testing.assert_close(again.predict(again.denoiser, draw), expected, rtol=1e-6, atol=0)


def test_a_lora_file_is_the_same_whatever_the_order_of_sets(
    family: MaskedFamily, tmp_path: Path
) -> None:
    family.add_lora(2, 4.0, targets=["to_v", "to_out.0", "to_k", "to_q"])
    file = family.save_lora(tmp_path / "lora") / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert settings["target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]

    class Reversed(set[str]):
        def __iter__(self) -> Iterator[str]:
            return reversed(sorted(set(super().__iter__())))

    config = family.denoiser.peft_config["default"]
    config.target_modules = Reversed(config.target_modules)
    again = family.save_lora(tmp_path / "again") / file.name
    assert again.read_bytes() == file.read_bytes()


def test_a_lora_of_the_head_is_refused(family: MaskedFamily, kind: str, tmp_path: Path) -> None:
    for target in ("conv2", "mlm_layer.conv2"):
        with pytest.raises(ValueError, match=f"'{target}' is mlm_layer.conv2.*target other layers"):
            family.add_lora(2, 2.0, targets=["to_q", target])
    lora.add(family.denoiser, 2, 2.0, ["conv2"])
    lora_files.write_for_denoiser(tmp_path, family.denoiser)
    with pytest.raises(ValueError, match=r"changes mlm_layer\.conv2, which computes the loss"):
        models.load(family.path).load_lora(tmp_path)


def gradients(family: MaskedFamily) -> list[Tensor]:
    family.denoiser.zero_grad()
    torch.manual_seed(4)  # dropout
    family.predict(family.denoiser, family.example(2, 16, 16)).sum().backward()
    found = [p.grad for p in family.denoiser.parameters() if p.grad is not None]
    return [gradient.clone() for gradient in found]


@pytest.mark.parametrize("lora", [False, True])
def test_checkpointing_gives_the_same_gradients(family: MaskedFamily, lora: bool) -> None:
    if lora:
        family.add_lora(2, 4.0, dropout=0.3)
    perturb(family.denoiser)
    family.denoiser.train()
    results, layers = [], []
    count = nn.Linear.forward
    for mode in MODES:
        set_mode(family.denoiser, mode)
        assert family.denoiser.is_gradient_checkpointing == (mode != "none")
        with pytest.MonkeyPatch.context() as patch:
            calls: list[int] = []
            patch.setattr(nn.Linear, "forward", lambda *a, c=calls: (c.append(1), count(*a))[1])
            results.append(gradients(family))
        layers.append(len(calls))
    family.denoiser.enable_gradient_checkpointing()  # as diffusers calls it
    results.append(gradients(family))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])
    assert layers[2] > layers[0]  # the blocks ran twice
    assert not frozen_copy(family.denoiser).is_gradient_checkpointing


def test_compiled_blocks_and_another_attention_compute_the_same(
    family: MaskedFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    family.add_lora(2, 4.0)
    perturb(family.denoiser)
    family.denoiser.train()
    expected = gradients(family)
    attention.set_backend(family.denoiser, "sdpa")
    torch.testing.assert_close(gradients(family), expected)
    compiling.compile_denoiser(family.denoiser, "blocks")
    torch.testing.assert_close(gradients(family), expected)
    assert counters["stats"]["unique_graphs"] >= 1
    torch._dynamo.reset()


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = tiny.build_amused(tmp_path / "m", codebook_size=16)
    with pytest.raises(ValueError, match="answers with 16 tokens.*the VQ model has 32"):
        models.load(folder)


def test_amused_is_diffusers_own(folders: dict[str, Path], tmp_path: Path) -> None:
    family = models.load(folders["amused"])
    pipeline = diffusers.AmusedPipeline.from_pretrained(folders["amused"])
    pipeline.set_progress_bar_config(disable=True)
    draw = family.example(2, 16, 16)
    logits = logits_of(family, draw)
    assert torch.equal(logits_of(family, draw, pipeline.transformer), logits)
    drawings = []
    for guidance, temperature in ((3.0, None), (1.0, None), (3.0, 0.0)):
        options = {"height": 16, "width": 24}
        mine = family.generate(
            ["a cat"],
            [3],
            SamplingOptions(4, guidance, temperature, **options),
        )[0]
        chance = {} if temperature is None else {"temperature": (temperature, 0)}
        generator = torch.Generator().manual_seed(3)
        theirs = pipeline(
            "a cat",
            num_inference_steps=4,
            guidance_scale=guidance,
            generator=generator,
            **options,
            **chance,
        ).images[0]
        assert np.abs(np.asarray(mine).astype(int) - np.asarray(theirs)).max() <= 1
        drawings.append(mine.tobytes())
    assert drawings[0] != drawings[2]
    saved = diffusers.AmusedPipeline.from_pretrained(family.save(tmp_path / "saved"))
    assert type(saved.transformer) is diffusers.UVit2DModel
    assert torch.equal(logits_of(family, draw, saved.transformer), logits)


def test_meissonic_has_the_published_names(folders: dict[str, Path]) -> None:
    names = set(models.load(folders["meissonic"]).denoiser.state_dict())
    block, single = "transformer_blocks.0", "single_transformer_blocks.1"
    expected = {
        "embed.embeddings.weight",
        "embed.layer_norm.weight",
        "embed.conv.weight",
        "time_text_embed.timestep_embedder.linear_1.bias",
        "time_text_embed.text_embedder.linear_2.weight",
        "context_embedder.bias",
        "cond_embed.linear_1.weight",
        "encoder_proj_layer_norm.weight",
        "project_to_hidden_norm.weight",
        "project_from_hidden.weight",
        "down_block.downsample.conv.weight",
        "down_block.downsample.norm.weight",
        "up_block.upsample.conv.weight",
        "mlm_layer.conv1.weight",
        "mlm_layer.layer_norm.weight",
        "mlm_layer.conv2.weight",
        f"{block}.norm1.linear.weight",
        f"{block}.norm1_context.linear.bias",
        f"{block}.attn.to_q.weight",
        f"{block}.attn.add_k_proj.bias",
        f"{block}.attn.norm_added_q.weight",
        f"{block}.attn.to_out.0.weight",
        f"{block}.attn.to_add_out.bias",
        f"{block}.ff.net.0.proj.weight",
        f"{block}.ff_context.net.2.bias",
        f"{single}.norm.linear.weight",
        f"{single}.proj_mlp.weight",
        f"{single}.attn.norm_k.weight",
        f"{single}.proj_out.bias",
    }
    assert expected <= names
    assert not any("to_out" in name for name in names if name.startswith("single"))


def test_a_meissonic_folder_needs_all_its_parts(tmp_path: Path) -> None:
    folder = tiny.build_meissonic(tmp_path / "m")
    (folder / "vqvae").rename(folder / "vae")
    with pytest.raises(ValueError, match="lacks vqvae: a meissonic folder has transformer"):
        models.load(folder)


def test_meissonic_takes_77_tokens_whatever_its_tokenizer_says(tmp_path: Path) -> None:
    folder = tiny.build_meissonic(tmp_path / "m")
    file = folder / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    assert settings.pop("model_max_length") == 77
    file.write_text(json.dumps(settings))
    text = models.load(folder).text(["a" * 100])
    assert text["encoder_hidden_states"].shape == (1, 77, tiny.WIDTH)


def test_meissonic_computes_in_float32_what_the_published_code_does(
    folders: dict[str, Path],
) -> None:
    """Logits that src/transformer.py of github.com/viiika/Meissonic (aeba85e) gave for these weights."""
    family = models.load(folders["meissonic"])
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(family.denoiser.named_parameters())):
            numbers = philox.normal(1, torch.tensor([number]), 0, parameter.shape)
            parameter.copy_(0.6 * numbers[0])
    logits = logits_of(family, family.example(2, 16, 24))
    expected = torch.tensor([[3.228039, 0.591541, 2.861775], [3.155222, 0.559825, 2.776119]])
    torch.testing.assert_close(logits[:, 5, [0, 3, 7], [0, 8, 11]], expected, rtol=0, atol=1e-3)
