"""Tiny, offline folders of video pipelines in the true architectures: Wan 2.1, Wan 2.2's 5B, and LTX.

Wan's VAE takes 8 x 8 pixels (that of the 5B 16 x 16) and, after the first frame, 4 frames together; LTX's 4 x 4 and 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from tests.tiny_flow import T5_WIDTH, build_t5_tokenizer
from tglo.data.video import Video, write_video


def build_wan(folder: Path | str, *, expand: bool = False, seed: int = 0) -> Path:
    """A Wan 2.1 folder; expand: told the timestep of every patch, as Wan 2.2's 5B, whose VAE takes patches."""
    patched = {
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=T5_WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=64,
        )
        autoencoder = AutoencoderKLWan(
            base_dim=3,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.2, 0.15, 0.3, 0.1],
            **(patched if expand else {}),
        )
        pipeline = WanPipeline(
            transformer=transformer.eval(),
            vae=autoencoder.eval(),
            text_encoder=_t5(UMT5EncoderModel, UMT5Config),
            tokenizer=build_t5_tokenizer(512),
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=3.0,
                num_train_timesteps=1000,
            ),
            expand_timesteps=expand,
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_ltx(folder: Path | str, *, timestep_conditioning: bool = False, seed: int = 0) -> Path:
    """An LTX folder; timestep_conditioning: the VAE's decoder is told of a timestep, as from 0.9.1 on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=2,
            caption_channels=T5_WIDTH,
        )
        autoencoder = AutoencoderKLLTXVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            patch_size=1,
            patch_size_t=1,
            timestep_conditioning=timestep_conditioning,
        )
        autoencoder.latents_mean += 0.1 * torch.randn(8)
        autoencoder.latents_std *= 0.5 + torch.rand(8)
        pipeline = LTXPipeline(
            transformer=transformer.eval(),
            vae=autoencoder.eval(),
            text_encoder=_t5(T5EncoderModel, T5Config),
            tokenizer=build_t5_tokenizer(128),
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.95,
                max_shift=2.05,
                base_image_seq_len=1024,
                max_image_seq_len=4096,
                shift_terminal=0.1,
            ),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def scored_videos(
    folder: Path, count: int = 6, *, frames: int = 14, size: tuple[int, int] = (64, 32)
) -> Path:
    """Write scored videos of a moving bar; every other one is shorter. Returns the manifest."""
    (folder / "videos").mkdir(parents=True)
    lines = ["prompt,image,score"]
    for number in range(count):
        pictures = []
        for place in range(frames if number % 2 else 10):
            picture = Image.new("RGB", size, (20 * number, 90, 160))
            picture.paste(
                (250, 220, 40), (4 * place % size[0], 0, 4 * place % size[0] + 8, size[1])
            )
            pictures.append(picture)
        (folder / "videos" / f"{number}.mp4").write_bytes(write_video(Video(pictures, 16.0)))
        lines.append(f"bar {number % 3},videos/{number}.mp4,{number / count}")
    (folder / "scored.csv").write_text("\n".join(lines) + "\n")
    return folder / "scored.csv"


def _t5(kind: Any, config: Any) -> Any:
    return kind(
        config(
            vocab_size=98,
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            is_gated_act=True,
            feed_forward_proj="gated-gelu",
        )
    ).eval()
