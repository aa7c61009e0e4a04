"""VAEs in tiles: as diffusers tiles them, near to the whole, and off by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn.functional import interpolate

from tests import tiny, tiny_flow, tiny_video
from tests.data.test_frames import frames
from tglo import cli, models
from tglo.cache.latents import LatentCache
from tglo.cache.make import is_made_of
from tglo.data.errors import CacheError
from tglo.files import read_json
from tglo.generation.generate import generate_images
from tglo.models import autoencoder
from tglo.models.tiling import tiled
from tglo.settings import ClipOptions, SamplingOptions
from tglo.train.config_files import parse_config

BUILDERS: dict[str, Callable[..., Path]] = {
    "wan": tiny_video.build_wan,
    "ltx": tiny_video.build_ltx,
    "qwen-image": tiny_flow.build_qwen_image,
    "sd15": tiny.build_sd15,
    "amused": tiny.build_amused,
}
ABOVE_A_TILE = {"wan": (5, 272, 64), "ltx": (5, 64, 528), "qwen-image": (272, 288)}
WITHIN_A_TILE = {"wan": (5, 48, 64), "ltx": (5, 48, 64), "qwen-image": (48, 64)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiling")
    return {name: build(root / name) for name, build in BUILDERS.items()}


def smooth(*shape: int) -> Tensor:
    """A batch of one picture or video with gradients, (1, 3, ..., H, W) in [-1, 1]."""
    height, width = shape[-2:]
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, height // 16, width // 16), generator=generator) * 2 - 1
    picture = interpolate(coarse, size=(height, width), mode="bilinear")
    if len(shape) == 2:
        return picture
    return torch.stack([picture * (1 - number / 10) for number in range(shape[0])], dim=2)


@pytest.mark.parametrize("kind", ABOVE_A_TILE)
@torch.no_grad()
def test_above_a_tile_it_is_diffusers_tiling_and_near_to_the_whole(
    kind: str, folders: dict[str, Path]
) -> None:
    """In bits as the VAE after enable_tiling(). Beside the whole, with random weights: latents within 5% of their
    deviation and pixels within half a level of 255, on average; at a seam more.
    """
    family = models.load(folders[kind])
    pixels = smooth(*ABOVE_A_TILE[kind])
    whole = family.encode(pixels)["mean"]
    decoded = family.codec.decode(family.vae, whole)
    family.encode_in_tiles()
    found = family.encode(pixels)
    with tiled(family.vae, True):
        again = family.codec.decode(family.vae, whole)
    assert not family.vae.use_tiling and not found["mean"].equal(whole)
    assert (found["mean"] - whole).abs().mean() < 0.05 * whole.std()
    assert (again - decoded).abs().mean() < 0.5 * 2 / 255 and not again.equal(decoded)
    vae = family.vae
    vae.enable_tiling()
    batch = pixels if pixels.dim() == 5 else pixels.unsqueeze(2)
    shift, factor = family.codec.scaling(vae)
    raw = ((vae.encode(batch).latent_dist.mean - shift) * factor).reshape(found["mean"].shape)
    assert raw.equal(found["mean"])
    latents = whole if whole.dim() == 5 else whole.unsqueeze(2)
    pictures = vae.decode(latents / factor + shift, return_dict=False)[0].clamp(-1, 1)
    assert pictures.reshape(again.shape).equal(again)


@pytest.mark.parametrize("kind", WITHIN_A_TILE)
@torch.no_grad()
def test_what_fits_into_a_tile_keeps_its_bits(kind: str, folders: dict[str, Path]) -> None:
    family = models.load(folders[kind])
    pixels = smooth(*WITHIN_A_TILE[kind])
    whole = family.encode(pixels)
    family.encode_in_tiles()
    found = family.encode(pixels)
    assert all(found[name].equal(whole[name]) for name in whole)
    decoded = family.codec.decode(family.vae, whole["mean"])
    with tiled(family.vae, True):
        assert family.codec.decode(family.vae, whole["mean"]).equal(decoded)


@torch.no_grad()
def test_generated_videos_are_the_pipelines_with_its_vae_tiled(folders: dict[str, Path]) -> None:
    options = SamplingOptions(1, 1.0, height=272, width=32, frames=5, vae_tiling=True)
    (video,) = models.load(folders["wan"]).generate(["a bar"], [3], options)
    pipeline = DiffusionPipeline.from_pretrained(folders["wan"])
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_tiling()
    expected = pipeline(
        prompt="a bar",
        height=272,
        width=32,
        num_frames=5,
        num_inference_steps=1,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).frames[0]
    levels = torch.stack([autoencoder_levels(frame) for frame in video.frames])
    assert (levels - expected).abs().max() < 0.51 / 255


def autoencoder_levels(frame: object) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(frame, dtype=np.float32) / 255).permute(2, 0, 1)


@torch.no_grad()
def test_videos_are_encoded_so_many_at_once_as_memory_was_meant_for(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = models.load(folders["wan"])
    pixels = torch.cat([smooth(5, 32, 32), smooth(5, 32, 32).flip(-1), smooth(5, 32, 32) / 2])
    whole = family.encode(pixels)["mean"]
    monkeypatch.setattr(autoencoder, "PIXELS_AT_ONCE", 5 * 32 * 32)
    seen: list[int] = []
    encode = family.vae.encode
    monkeypatch.setattr(family.vae, "encode", lambda x: (seen.append(len(x)), encode(x))[1])
    torch.testing.assert_close(family.encode(pixels)["mean"], whole, rtol=1e-4, atol=1e-5)
    assert seen == [1, 1, 1]


def test_an_autoencoder_without_tiles_is_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "vae_tiling is on, and VQModel cannot encode or decode in tiles; leave it out"
    frames(tmp_path, 1)
    (tmp_path / "m.csv").write_text("prompt,image\na,0.png\n")
    command = ["cache", "--model", str(folders["amused"]), "--manifest", str(tmp_path / "m.csv")]
    command += ["--output", str(tmp_path / "cache"), "--resolution", "32", "--vae-tiling"]
    assert cli.main([*command, "--device", "cpu"]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=message):
        options = SamplingOptions(1, vae_tiling=True)
        generate_images(str(folders["amused"]), ["a"], tmp_path / "out", options, device="cpu")


def test_a_cache_in_tiles_is_another_cache(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames(tmp_path / "a", 9)
    (tmp_path / "m.csv").write_text("prompt,image,score\np,a,1\n")
    command = ["cache", "--model", str(folders["wan"]), "--manifest", str(tmp_path / "m.csv")]
    command += ["--frames", "9", "--resolution", "32", "--device", "cpu", "--output"]
    for name, flags in (("whole", []), ("tiles", ["--vae-tiling"])):
        assert cli.main([*command, str(tmp_path / name), *flags]) == 0, capsys.readouterr().err
        assert cli.main([*command, str(tmp_path / name), *flags]) == 0
    assert "vae_tiling" not in LatentCache(tmp_path / "whole").fingerprint
    assert LatentCache(tmp_path / "tiles").fingerprint["vae_tiling"] == "on"
    assert cli.main([*command, str(tmp_path / "tiles")]) == 1
    assert "vae_tiling" in capsys.readouterr().err
    asked = (tmp_path / "m.csv", 32, True)
    clips = ClipOptions((9,))
    assert is_made_of(tmp_path / "tiles", *asked, clips=clips, vae_tiling=True)
    with pytest.raises(CacheError, match="was encoded in tiles and is asked for without"):
        is_made_of(tmp_path / "tiles", *asked, clips=clips)


def test_folders_of_images_say_that_they_were_tiled(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    options = SamplingOptions(1, 1.0, height=16, width=16, vae_tiling=True)
    generate_images(str(folders["sd15"]), ["a"], tmp_path, options, device="cpu")
    assert read_json(tmp_path / "generation.json")["vae_tiling"] == "on"
    with pytest.raises(ValueError, match="vae_tiling"):
        whole = SamplingOptions(1, 1.0, height=16, width=16)
        generate_images(str(folders["sd15"]), ["a"], tmp_path, whole, device="cpu")


def test_validation_may_be_tiled(folders: dict[str, Path]) -> None:
    config = parse_config(
        {
            "model": {"path": str(folders["wan"])},
            "output": {"validation_vae_tiling": True},
        }
    )
    assert config.output.validation_vae_tiling
