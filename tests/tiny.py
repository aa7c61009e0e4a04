"""Tiny, offline pipeline folders in the true architectures: SD1.x, SD2.x (v-prediction), SDXL,
aMUSEd and Meissonic.

Each builds in about 0.1 s with fixed random weights. The VAE halves the sides and has 4 latent
channels, so a 16x16 image has 4x8x8 latents; every bucket side is a multiple of 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AmusedPipeline,
    AmusedScheduler,
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UVit2DModel,
    VQModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from tglo.models.modules.meissonic_transformer import Transformer2DModel

WIDTH = 16  # of the text encoders
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build_sd15(
    folder: Path | str,
    *,
    prediction_type: str = "epsilon",
    channels: tuple[int, int] = (8, 16),
    seed: int = 0,
) -> Path:
    """An SD1.x folder (UNet, VAE, CLIP text encoder, DDIM) of about 0.1 M weights."""
    return _build_sd(
        folder, seed, {"block_out_channels": channels}, prediction_type=prediction_type
    )


def build_sd2(folder: Path | str, *, seed: int = 0) -> Path:
    """An SD2.x folder: v-prediction, zero terminal SNR, linear projections, gelu text encoder."""
    return _build_sd(
        folder,
        seed,
        {"use_linear_projection": True, "attention_head_dim": [2, 4]},
        act="gelu",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def build_sdxl(folder: Path | str, *, seed: int = 0, force_upcast: bool = True) -> Path:
    """An SDXL folder: two text encoders, pooled embeddings, time ids, Euler."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTH + 6 * 8,
            transformer_layers_per_block=[1, 2],
            use_linear_projection=True,
        )
        pipeline = StableDiffusionXLPipeline(
            vae=vae(scaling_factor=0.13025, force_upcast=force_upcast),
            text_encoder=CLIPTextModel(text_config("quick_gelu")).eval(),
            text_encoder_2=CLIPTextModelWithProjection(text_config("gelu")).eval(),
            tokenizer=build_tokenizer(),
            tokenizer_2=build_tokenizer(pad_token="!"),
            unet=unet,
            scheduler=EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **NOISE),
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


CODEBOOK = 32  # tokens of a masked model; the mask's is the next


def build_amused(folder: Path | str, *, seed: int = 0, **options: Any) -> Path:
    """An aMUSEd folder; options of its UVit2DModel. A 16x16 image has 8x8 tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {
            "hidden_size": 16,
            "cond_embed_dim": WIDTH,
            "micro_cond_encode_dim": 8,
            "micro_cond_embed_dim": 40,
            "encoder_hidden_size": WIDTH,
            "vocab_size": CODEBOOK + 8,
            "codebook_size": CODEBOOK,
            "in_channels": 12,
            "block_out_channels": 12,
            "num_res_blocks": 1,
            "downsample": True,
            "upsample": True,
            "block_num_heads": 2,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "sample_size": 8,
        }
        pipeline = AmusedPipeline(
            vqvae=build_vqvae(),
            tokenizer=build_tokenizer(),
            text_encoder=CLIPTextModelWithProjection(text_config("quick_gelu")).eval(),
            transformer=UVit2DModel(**{**sizes, **options}).eval(),
            scheduler=AmusedScheduler(mask_token_id=CODEBOOK + 7),
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def build_meissonic(folder: Path | str, *, seed: int = 0) -> Path:
    """A Meissonic folder of the published layout, parts side by side, without model_index.json."""
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Transformer2DModel(
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(2, 2, 4),
            vocab_size=CODEBOOK + 8,
            codebook_size=CODEBOOK,
            downsample=True,
            upsample=True,
        )
        transformer.eval().save_pretrained(folder / "transformer")
        build_vqvae().save_pretrained(folder / "vqvae")
        encoder = CLIPTextModelWithProjection(text_config("quick_gelu")).eval()
        encoder.save_pretrained(folder / "text_encoder")
        build_tokenizer().save_pretrained(folder / "tokenizer")
        AmusedScheduler(mask_token_id=CODEBOOK + 7).save_pretrained(folder / "scheduler")
    return folder


def build_vqvae() -> VQModel:
    """Halves the sides; its codebook is spread out, so that images take different tokens."""
    vqvae = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=CODEBOOK,
        norm_num_groups=4,
        lookup_from_codebook=True,
    ).eval()
    torch.nn.init.normal_(vqvae.quantize.embedding.weight)
    return vqvae


def build_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer over the byte alphabet without merges: one token per byte."""
    alphabet = byte_alphabet()
    names = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocab, merges=[], pad_token=pad_token, model_max_length=77)


def _build_sd(
    folder: Path | str, seed: int, unet: dict[str, Any], act: str = "quick_gelu", **noise: Any
) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusionPipeline(
            unet=_unet(cross_attention_dim=WIDTH, **unet),
            vae=vae(scaling_factor=0.18215),
            text_encoder=CLIPTextModel(text_config(act)).eval(),
            tokenizer=build_tokenizer(),
            scheduler=DDIMScheduler(
                clip_sample=False, set_alpha_to_one=False, steps_offset=1, **NOISE, **noise
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return Path(folder)


def _unet(**options: Any) -> UNet2DConditionModel:
    options = {"attention_head_dim": 2, "block_out_channels": (8, 16), **options}
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **options,
    ).eval()


def vae(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **options,
    ).eval()


def text_config(act: str) -> CLIPTextConfig:
    special = len(byte_alphabet()) * 2
    return CLIPTextConfig(
        vocab_size=special + 2,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        hidden_act=act,
        bos_token_id=special,
        eos_token_id=special + 1,
        pad_token_id=special + 1,
    )


def byte_alphabet() -> list[str]:
    """The printable stand-ins that byte-level BPE uses for the 256 byte values, in byte order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]
