"""What a file is, from its header: layouts, predictions, and refusals by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tglo import models
from tglo.models.registry import skeleton_of
from tglo.models.single_file.header import read_header
from tglo.models.single_file.layouts import Layout, recognise
from tglo.models.single_file.published import configurations
from tglo.settings import ModelOptions

Files = Callable[..., Path]
UNET = "model.diffusion_model."


def written(path: Path, shapes: Mapping[str, tuple[int, ...]], **metadata: str) -> Path:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path, metadata or None)
    return path


def layout(file: Path) -> Layout:
    return recognise(read_header(file))


def test_stable_diffusion(files: Files) -> None:
    found = {kind: layout(files(kind)) for kind in ("sd15", "sd2", "sdxl")}
    assert [entry.title for entry in found.values()] == ["SD1.x", "SD2.x", "SDXL"]
    assert [entry.published for entry in found.values()] == ["sd15", "sd21", "sdxl"]
    assert set(found["sdxl"].parts) == {"unet", "vae", "text_encoder", "text_encoder_2"}
    assert set(layout(files("sdxl", without=("vae",))).parts) == {
        "unet",
        "text_encoder",
        "text_encoder_2",
    }


def test_predictions_are_those_that_the_file_says(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    def v(kind: str, *, more: dict | None = None, **metadata: str) -> bool:
        names = {name.replace("__", "."): text for name, text in metadata.items()}
        return layout(files(kind, metadata=names, more=more)).v_prediction

    assert not v("sd15") and not v("sdxl")
    assert v("sd15", ss_v_parameterization="True")
    assert v("sdxl", modelspec__prediction_type="v")
    assert not v("sd2", modelspec__prediction_type="epsilon")
    assert not v("sd2", ss_v_parameterization="False")
    with caplog.at_level(logging.INFO):
        assert v("sd2")
    assert any("does not say" in record.getMessage() for record in caplog.records)
    marks = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    found = layout(files("sdxl", more=marks))
    assert found.v_prediction and found.zero_snr
    noise = configurations("sdxl", found.v_prediction, found.zero_snr)["scheduler"]
    assert noise["rescale_betas_zero_snr"] and noise["prediction_type"] == "v_prediction"


def test_transformers(tmp_path: Path) -> None:
    flux = {
        "double_blocks.0.img_attn.norm.key_norm.scale": (4,),
        "img_in.weight": (8, 64),
        "guidance_in.in_layer.weight": (4, 4),
    }
    found = layout(written(tmp_path / "a.safetensors", flux))
    assert (found.pipeline, found.title) == ("FluxPipeline", "FLUX.1-dev")
    assert found.parts == {"transformer": ""}
    del flux["guidance_in.in_layer.weight"]
    whole = {UNET + name: shape for name, shape in flux.items()}
    whole |= {
        "vae.encoder.conv_in.weight": (1,),
        "text_encoders.t5xxl.transformer.shared.weight": (1,),
    }
    found = layout(written(tmp_path / "b.safetensors", whole))
    assert found.title == "FLUX.1-schnell" and found.parts["transformer"] == UNET
    assert {"vae", "text_encoder_2"} < set(found.parts)
    sd3 = {"joint_blocks.0.context_block.adaLN_modulation.1.bias": (1,)}
    assert layout(written(tmp_path / "c.safetensors", sd3)).title == "stable-diffusion-3-medium"
    sd3 |= {"joint_blocks.0.x_block.attn2.qkv.weight": (1,)}
    assert layout(written(tmp_path / "d.safetensors", sd3)).title == "stable-diffusion-3.5-medium"
    wan = {"head.modulation": (1, 2, 4), "patch_embedding.weight": (1536, 16, 1, 2, 2)}
    found = layout(written(tmp_path / "e.safetensors", wan))
    assert found.repository == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "a LoRA, not a model: .*--lora"),
        ({"transformer.x.lora_A.weight": (4, 4)}, "a LoRA, not a model"),
        ({"control_model.x": (4,)}, "a ControlNet"),
        ({"encoder.down.0.block.0.conv1.weight": (4,)}, "a VAE alone.*whole checkpoint"),
        ({"model.0.weight": (4,)}, r"an upscaler \(ESRGAN\)"),
        ({"down_blocks.0.resnets.0.conv1.weight": (4,)}, "denoiser of a diffusers folder alone"),
        ({"emb_params": (4,)}, "a textual inversion"),
        ({"something": (4,)}, r"no known layout \(it holds something"),
        ({UNET + "input_blocks.0.0.weight": (8, 9, 3, 3)}, "an inpainting model"),
        (
            {
                UNET + "input_blocks.0.0.weight": (8, 4, 3, 3),
                UNET + "label_emb.0.0.weight": (4, 4),
                "conditioner.embedders.0.model.ln_final.weight": (4,),
            },
            "the refiner of SDXL.*base model",
        ),
        ({"double_blocks.0.x": (4,), "img_in.weight": (4, 384)}, "FLUX.1 model for filling"),
        ({"head.modulation": (4,), "img_emb.x": (4,)}, "Wan model that starts from images"),
        ({UNET + "double_blocks.0.x.scale_weight": (1,)}, "quantised weights"),
    ],
)  # fmt: skip
def test_others_are_refused_by_name(
    shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        models.resolve(written(tmp_path / "file.safetensors", shapes))


def test_files_that_are_not_read(tmp_path: Path) -> None:
    for name in ("a.ckpt", "a.pt", "a.gguf"):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(ValueError, match=r"never opened.*as \.safetensors, or convert"):
            models.resolve(str(tmp_path / name))
    (tmp_path / "cut.safetensors").write_bytes(b"\x80\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        models.resolve(tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"does not exist; give a diffusers folder, a \.safe"):
        models.resolve("nowhere/model.safetensors")


def test_what_the_file_does_not_hold_is_named_with_a_remedy(
    files: Files, tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = files("sd15")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ValueError, match=r"does not hold tokenizer, which stable-diffusion-v1-5/.*--model-config"
    ):
        models.resolve(file)
    with pytest.raises(ValueError, match="which is no folder"):
        models.resolve(file, options=ModelOptions("./nowhere"))
    with pytest.raises(ValueError, match="is of StableDiffusionXLPipeline, and the file is SD1.x"):
        models.resolve(file, options=ModelOptions(str(folders["sdxl"])))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"does not hold tokenizer, and neither does"):
        models.resolve(file, options=ModelOptions(str(tmp_path / "empty")))
    with pytest.raises(
        ValueError,
        match=r"^the unet in .* does not fit .*other/unet|^the unet in .* expected shape",
    ):
        other = tmp_path / "other"
        import json
        import shutil

        shutil.copytree(folders["sd15"], other)
        config = other / "unet" / "config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"block_out_channels": [16, 16]})
        )
        models.load(file, options=ModelOptions(str(other)))


def test_a_file_without_some_tensors_is_told(files: Files, folders: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    file = files("sd15")
    whole = load_file(file)
    del whole[UNET + "middle_block.1.proj_in.weight"]
    save_file(whole, file)
    with pytest.raises(
        ValueError,
        match=r"^the unet in .*sd15\.safetensors does not fit .*lacks tensors.*--model-config",
    ):
        models.load(file, options=ModelOptions(str(folders["sd15"])))


@pytest.mark.parametrize(
    ("name", "unet", "encoders"),
    [
        ("sd15", 859_520_964, {"text_encoder": 123_060_480}),
        ("sd21", 865_910_724, {"text_encoder": 340_387_840}),
        ("sdxl", 2_567_463_684, {"text_encoder": 123_060_480, "text_encoder_2": 694_659_840}),
    ],
)
def test_published_configurations_have_the_published_numbers_of_weights(
    name: str, unet: int, encoders: dict[str, int]
) -> None:
    import diffusers
    import transformers

    known = configurations(name, v_prediction=name == "sd21", zero_snr=False)

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        assert count(diffusers.UNet2DConditionModel.from_config(known["unet"])) == unet
        assert count(diffusers.AutoencoderKL.from_config(known["vae"])) == 83_653_863
        for part, number in encoders.items():
            config = transformers.CLIPTextConfig(**known[part])
            kind = getattr(transformers, config.architectures[0])
            assert count(kind(config)) == number
    scheduler = getattr(diffusers, known["scheduler"]["_class_name"])
    assert scheduler.from_config(known["scheduler"]).config.beta_end == 0.012


def test_a_plan_needs_no_hub(files: Files, folders: dict[str, Path]) -> None:
    assert skeleton_of(str(files("sdxl"))).default_size == (1024, 1024)
    tiny = skeleton_of(str(files("sdxl")), ModelOptions(str(folders["sdxl"])))
    assert tiny.config["block_out_channels"] == [8, 16]
