"""Parts that do not fit each other: told before any of them is loaded, naming what is there and what to do."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, FlowMatchHeunDiscreteScheduler

from tests import tiny, tiny_flow
from tests.models.families.test_toy import manifest
from tglo import models
from tglo.cache.make import build
from tglo.generation.generate import generate_images
from tglo.plan.profile import profile
from tglo.settings import SamplingOptions

BUILDERS: dict[str, Callable[..., Path]] = {
    "flux": tiny_flow.build_flux,
    "schnell": lambda folder: tiny_flow.build_flux(folder, guidance=False),
    "sd3": tiny_flow.build_sd3,
    "qwen": tiny_flow.build_qwen_image,
    "z": tiny_flow.build_z_image,
    "klein": tiny_flow.build_flux2_klein,
    "klein-distilled": lambda folder: tiny_flow.build_flux2_klein(folder, distilled=True),
    "flux2": tiny_flow.build_flux2,
    "sana": tiny_flow.build_sana,
    "sd15": tiny.build_sd15,
    "sdxl": tiny.build_sdxl,
}
INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of each kind, built when it is first asked for."""
    root = tmp_path_factory.mktemp("whole")
    return lambda kind: root / kind if (root / kind).exists() else BUILDERS[kind](root / kind)


@pytest.fixture
def copy(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: shutil.copytree(whole(kind), tmp_path / kind)


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def put(folder: Path, part: str, other: Path, source: str, *, listed: bool) -> None:
    """Put another model's part in, with or without a change of the index."""
    shutil.rmtree(folder / part)
    shutil.copytree(other / source, folder / part)
    if listed:
        edit(folder / INDEX, **{part: json.loads((other / INDEX).read_text())[source]})


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading anything would be too late."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("tglo.models.families.loaded.Loaded._load_parts", load)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        ("flux", "sana", "vae is of class AutoencoderDC; a flux model has AutoencoderKL"),
        ("flux", "klein", "vae is of class AutoencoderKLFlux2"),
        ("sd3", "qwen", "vae is of class AutoencoderKLQwenImage"),
        ("sd15", "sana", "vae is of class AutoencoderDC; a stable-diffusion model has Auto"),
        ("sana", "flux", "vae is of class AutoencoderKL; a sana model has AutoencoderDC"),
        ("qwen", "flux", "vae is of class AutoencoderKL; a qwen-image model has AutoencoderKLQ"),
        ("klein", "flux", "vae is of class AutoencoderKL; a flux2-klein model has AutoencoderKLF"),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_the_autoencoder_of_another_family(
    copy: Callable[[str], Path],
    whole: Callable[[str], Path],
    kind: str,
    other: str,
    message: str,
    listed: bool,
) -> None:
    folder = copy(kind)
    put(folder, "vae", whole(other), "vae", listed=listed)
    with pytest.raises(ValueError, match=f"{message}.*Put the autoencoder of the same model there"):
        models.load(folder)


@pytest.mark.usefixtures("unloaded")
def test_an_autoencoder_of_other_channels(copy: Callable[[str], Path]) -> None:
    folder = copy("flux")
    AutoencoderKL(latent_channels=16, norm_num_groups=4, block_out_channels=(4, 4)).save_pretrained(
        folder / "vae"
    )
    with pytest.raises(ValueError, match="takes 16 numbers a patch and the VAE gives 64"):
        models.load(folder)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("kind", "part", "other", "source"),
    [
        ("flux", "text_encoder_2", "sana", "text_encoder"),
        ("z", "text_encoder", "qwen", "text_encoder"),
        ("klein", "text_encoder", "sana", "text_encoder"),
        ("flux2", "text_encoder", "klein", "text_encoder"),
        ("sd15", "text_encoder", "sd3", "text_encoder_3"),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_the_text_encoder_of_another_family(
    copy: Callable[[str], Path],
    whole: Callable[[str], Path],
    kind: str,
    part: str,
    other: str,
    source: str,
    listed: bool,
) -> None:
    folder = copy(kind)
    put(folder, part, whole(other), source, listed=listed)
    with pytest.raises(ValueError, match=f"{part} is of class .* Put the text encoder of the same"):
        models.load(folder)


@pytest.mark.usefixtures("unloaded")
def test_a_text_encoder_without_the_projection_that_is_used(
    copy: Callable[[str], Path], whole: Callable[[str], Path]
) -> None:
    folder = copy("sd3")
    put(folder, "text_encoder", whole("flux"), "text_encoder", listed=True)
    with pytest.raises(
        ValueError, match=r"CLIPTextModel; .* has CLIPTextModelWithProjection there"
    ):
        models.load(folder)


@pytest.mark.parametrize(
    ("kind", "part", "entry", "message"),
    [
        ("flux", "text_encoder_2", "d_model", r"takes 32 .*\(joint_attention_dim\).* gives 768"),
        (
            "flux",
            "text_encoder",
            "hidden_size",
            r"\(pooled_projection_dim\), and text_encoder gives",
        ),
        ("sd3", "text_encoder_3", "d_model", r"\(joint_attention_dim\), and text_encoder_3 gives"),
        ("klein", "text_encoder", "hidden_size", r"takes 48 .* text_encoder gives 2304"),
        ("sdxl", "text_encoder_2", "hidden_size", "text_encoder with text_encoder_2 gives 784"),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_a_text_encoder_of_another_size(
    copy: Callable[[str], Path], kind: str, part: str, entry: str, message: str
) -> None:
    folder = copy(kind)
    edit(folder / part / "config.json", **{entry: 768})
    with pytest.raises(ValueError, match=f"{message}.*take both from one model"):
        models.load(folder)


@pytest.mark.parametrize("kind", ["flux", "sd3", "qwen", "z", "klein", "sana"])
@pytest.mark.usefixtures("unloaded")
def test_a_diffusion_scheduler_in_a_flow_model(copy: Callable[[str], Path], kind: str) -> None:
    folder = copy(kind)
    DDPMScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(ValueError, match="is of DDPMScheduler, and .* trained by flow matching"):
        models.load(folder)


@pytest.mark.usefixtures("unloaded")
def test_other_schedulers_that_do_not_fit(
    copy: Callable[[str], Path], whole: Callable[[str], Path]
) -> None:
    folder = copy("sd15")
    put(folder, "scheduler", whole("flux"), "scheduler", listed=True)
    with pytest.raises(ValueError, match="FlowMatchEuler.*no flow-matching ones; take the sched"):
        models.load(folder)
    folder = copy("flux")
    edit(folder / SCHEDULER, invert_sigmas=True)
    with pytest.raises(ValueError, match="has invert_sigmas true.*set it to false"):
        models.load(folder)
    FlowMatchHeunDiscreteScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(ValueError, match="which takes no sigmas as the pipeline of flux gives"):
        models.load(folder)


def test_flow_sigmas_of_another_sampler_are_used(
    copy: Callable[[str], Path], whole: Callable[[str], Path]
) -> None:
    """DPM-Solver on flow sigmas, as people put it into FLUX folders."""
    folder = copy("flux")
    put(folder, "scheduler", whole("sana"), "scheduler", listed=True)
    options = SamplingOptions(2, 3.0, height=16, width=16)
    assert models.load(folder).generate(["a"], [0], options)[0].size == (16, 16)


@pytest.mark.parametrize(
    ("kind", "stated", "message"),
    [
        ("schnell", True, "guidance_embeds true, and the weights beside it have no embedding"),
        ("klein", True, "guidance_embeds true, and the weights beside it have no embedding"),
        ("flux", False, "guidance_embeds false, and the weights beside it have an embedding"),
        ("flux2", False, "guidance_embeds false, and the weights beside it have an embedding"),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_a_guidance_that_the_weights_do_not_have(
    copy: Callable[[str], Path], kind: str, stated: bool, message: str
) -> None:
    folder = copy(kind)
    edit(folder / "transformer/config.json", guidance_embeds=stated)
    with pytest.raises(ValueError, match=f"{message}.*set it to {str(not stated).lower()}"):
        models.load(folder)


@pytest.mark.usefixtures("unloaded")
def test_a_guidance_that_the_configuration_leaves_out(copy: Callable[[str], Path]) -> None:
    """diffusers would drop dev's embedding without a word."""
    folder = copy("flux")
    file = folder / "transformer/config.json"
    config = json.loads(file.read_text())
    del config["guidance_embeds"]
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="guidance_embeds false, .* set it to true"):
        models.load(folder)


@pytest.mark.parametrize("kind", ["z", "klein", "flux2"])
@pytest.mark.usefixtures("unloaded")
def test_a_tokenizer_without_its_chat_template(copy: Callable[[str], Path], kind: str) -> None:
    folder = copy(kind)
    (folder / "tokenizer/chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template.*it needs a file chat_template"):
        models.load(folder)


@pytest.mark.parametrize("kind", ["schnell", "klein-distilled"])
def test_guidance_of_a_model_that_has_none_is_told(
    whole: Callable[[str], Path], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    family = models.load(whole(kind))
    for guidance, told in ((1.0, 0), (5.0, 1)):
        with caplog.at_level(logging.WARNING, logger="tglo"), torch.no_grad():
            family.generate(["a"], [0], SamplingOptions(1, guidance, height=16, width=16))
        assert sum("distilled without guidance" in r.getMessage() for r in caplog.records) == told


@pytest.mark.parametrize("guidance", [-3.0, 1e6, float("nan")])
def test_absurd_guidance(guidance: float) -> None:
    with pytest.raises(ValueError, match="guidance is .* it must be from 0 to 1000"):
        SamplingOptions(guidance=guidance).check()


@pytest.mark.parametrize("kind", ["flux", "qwen", "z", "klein", "sana", "sd3"])
def test_sizes_that_the_patches_do_not_divide(
    whole: Callable[[str], Path], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = models.load(whole(kind))
    options = SamplingOptions(1, 1.0, height=33, width=32)
    message = rf"height 33 and width 32 must be multiples of {family.size_step} pixels"
    with pytest.raises(ValueError, match=message):
        family.generate(["a"], [0], options)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=message):
        patch.delattr("tglo.models.families.loaded.Loaded._load_parts")
        generate_images(str(whole(kind)), ["a"], tmp_path / "images", options, device="cpu")
    with pytest.raises(ValueError, match=rf"multiple of {family.size_step}"):
        build(str(whole(kind)), manifest(tmp_path / "data"), tmp_path / "cache", resolution=33)
    with pytest.raises(ValueError, match=rf"resolution is 33; .* a multiple of {family.size_step}"):
        profile(str(whole(kind)), resolution=33)
