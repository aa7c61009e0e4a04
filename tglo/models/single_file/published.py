"""The configurations of SD1.5, SD2.1 and SDXL as published, for files that have weights alone.

Numbers of an architecture, by part; `tglo.models.single_file.layouts.Layout.published` names it.
"""

from __future__ import annotations

from typing import Any

from tglo.models.families.stable_diffusion import ARCHITECTURES

_VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_CLIP = {
    "model_type": "clip_text_model",
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "pad_token_id": 1,
    "vocab_size": 49408,
}
_CLIP_L = {
    **_CLIP,
    "architectures": ["CLIPTextModel"],
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
_OPEN_CLIP_H = {  # without its last layer
    **_CLIP,
    "architectures": ["CLIPTextModel"],
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
_OPEN_CLIP_G = {
    **_CLIP,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
_NOISE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_UNET = "UNet2DConditionModel"


def configurations(name: str, v_prediction: bool, zero_snr: bool) -> dict[str, dict[str, Any]]:
    """Return part -> configuration of a published architecture (sd15, sd21 or sdxl).

    v_prediction, zero_snr: as the file was trained; SD2.1 of 768 pixels predicts velocities, its base model of
    512 pixels noise.
    """
    unet = {"_class_name": _UNET, **ARCHITECTURES[name]}
    noise: dict[str, Any] = {"_class_name": "PNDMScheduler", **_NOISE}
    if name == "sdxl":
        noise |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
        noise |= {"interpolation_type": "linear", "sample_max_value": 1.0}
        parts = {
            "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
            "text_encoder": _CLIP_L,
            "text_encoder_2": _OPEN_CLIP_G,
        }
    elif name == "sd21":
        side = 768 if v_prediction else 512
        unet |= {"sample_size": side // 8, "upcast_attention": v_prediction}
        noise["_class_name"] = "DDIMScheduler"
        parts = {"vae": {**_VAE, "sample_size": side}, "text_encoder": _OPEN_CLIP_H}
    else:
        parts = {"vae": {**_VAE, "sample_size": 512}, "text_encoder": _CLIP_L}
    noise["prediction_type"] = "v_prediction" if v_prediction else "epsilon"
    if zero_snr:
        noise |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if name == "sd15":  # PNDM's schedule cannot end in pure noise
            noise["_class_name"] = "DDIMScheduler"
    return {"unet": unet, "scheduler": noise, **parts}


def index(name: str, scheduler: str) -> dict[str, Any]:
    """Return the model_index.json of an architecture. scheduler: its scheduler's class."""
    several = name == "sdxl"
    texts = {"text_encoder": ["transformers", "CLIPTextModel"]}
    texts |= {"tokenizer": ["transformers", "CLIPTokenizer"]}
    if several:
        texts |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
        texts |= {"tokenizer_2": ["transformers", "CLIPTokenizer"]}
    more: dict[str, Any] = {"force_zeros_for_empty_prompt": True} if several else {}
    if not several:
        more = {"safety_checker": [None, None], "requires_safety_checker": False}
    return {
        "_class_name": "StableDiffusionXLPipeline" if several else "StableDiffusionPipeline",
        "unet": ["diffusers", _UNET],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", scheduler],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        **texts,
        **more,
    }
