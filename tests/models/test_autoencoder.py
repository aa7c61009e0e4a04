"""Codecs of autoencoders that the families here do not have: no posterior, frames, statistics by channel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLQwenImage
from torch import Tensor

from tglo.models import autoencoder
from tglo.models.autoencoder import LatentCodec, TokenCodec

PIXELS = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
MEAN, STD = [0.3, -0.2, 0.1, 0.4], [1.5, 0.5, 2.0, 0.8]


class Deterministic(LatentCodec):
    posterior = False
    spatial_scale = 2


class Video(LatentCodec):
    video = True
    spatial_scale = 8
    channels = 4


@pytest.fixture(autouse=True)
def fixed_weights() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def kl(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        **options,
    ).eval()


def by_channel(values: list[float], dims: int) -> Tensor:
    return torch.tensor(values).view(1, -1, *[1] * (dims - 2))


@pytest.mark.parametrize("per_channel", [False, True])
@torch.no_grad()
def test_latents_are_shifted_and_scaled_and_back(per_channel: bool) -> None:
    options = {"scaling_factor": 0.5, "shift_factor": 0.25}
    if per_channel:
        options = {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD}
    vae = kl(**options)
    codec = LatentCodec(vae.config)
    shift = by_channel(MEAN, 4) if per_channel else 0.25
    factor = 0.5 / by_channel(STD, 4) if per_channel else 0.5
    posterior = vae.encode(PIXELS).latent_dist
    found = codec.encode(vae, PIXELS)
    assert found["mean"].shape == (2, *codec.shape(16, 24)) == (2, 4, 8, 12)
    torch.testing.assert_close(found["mean"], (posterior.mean - shift) * factor)
    torch.testing.assert_close(found["std"], posterior.std * factor)
    expected = vae.decode(posterior.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(codec.decode(vae, found["mean"]), expected)


@torch.no_grad()
def test_an_encoder_without_a_posterior_has_no_spread() -> None:
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        scaling_factor=0.4,
    ).eval()
    codec = Deterministic(vae.config)
    found = codec.encode(vae, PIXELS)
    torch.testing.assert_close(found["mean"], vae.encode(PIXELS).latent * 0.4)
    assert not found["std"].any() and found["std"].shape == found["mean"].shape
    expected = vae.decode(found["mean"] / 0.4).sample.clamp(-1, 1)
    torch.testing.assert_close(codec.decode(vae, found["mean"]), expected)
    with pytest.raises(ValueError, match=r"no block_out_channels; .*a codec of its own"):
        LatentCodec(vae.config).shape(16, 24)


@torch.no_grad()
def test_an_image_is_one_frame_of_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=MEAN, latents_std=STD
    ).eval()
    codec = Video(vae.config)
    mean, std = by_channel(MEAN, 5), by_channel(STD, 5)
    posterior = vae.encode(PIXELS.unsqueeze(2)).latent_dist
    found = codec.encode(vae, PIXELS)
    assert found["mean"].shape == (2, *codec.shape(16, 24)) == (2, 4, 2, 3)
    torch.testing.assert_close(found["mean"].unsqueeze(2), (posterior.mean - mean) / std)
    torch.testing.assert_close(found["std"].unsqueeze(2), posterior.std / std)
    monkeypatch.setattr(autoencoder, "PIXELS_AT_ONCE", 16 * 24)  # one image at a time
    expected = vae.decode(posterior.mean).sample.clamp(-1, 1).squeeze(2)
    torch.testing.assert_close(codec.decode(vae, found["mean"]), expected)


def test_precisions_and_entries_that_are_missing() -> None:
    half, full = torch.bfloat16, torch.float32
    assert LatentCodec({"force_upcast": False}).dtype(half) == half
    assert LatentCodec({}).dtype(half) == TokenCodec({}).dtype(half) == full
    with pytest.raises(ValueError, match="no latent_channels"):
        LatentCodec({"block_out_channels": [8, 8]}).shape(16, 16)
