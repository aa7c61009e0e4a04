"""What a safetensors file is that is no model to train: said by name, with what to do."""

from __future__ import annotations

from tglo.models.single_file.header import Header

_UNET = "model.diffusion_model."
_IN = _UNET + "input_blocks.0.0.weight"
_WHOLE = "give the whole checkpoint of a model, or a diffusers folder"
_CHANNELS = {
    9: "an inpainting model",
    8: "an image-editing model (InstructPix2Pix)",
    7: "an upscaler",
    5: "a depth-conditioned model",
}
# Parts of names -> what a file with such a name is.
_ADAPTERS = {
    "lora_up.": "LoRA",
    "lora_down.": "LoRA",
    "lora_A.": "LoRA",
    "lora_B.": "LoRA",
    "lora.up.": "LoRA",
    "hada_w1": "LoRA (LoHa)",
    "lokr_w": "LoRA (LoKr)",
    "dora_scale": "LoRA (DoRA)",
}
# Beginnings of names -> what a file with such names alone is.
_OTHERS = {
    ("control_model.", "controlnet_", "input_hint_block."): "a ControlNet",
    ("ip_adapter.", "image_proj."): "an IP-Adapter",
    ("emb_params", "string_to_param"): "a textual inversion",
    ("encoder.down", "decoder.up", "decoder.middle.", "first_stage_model."): "a VAE alone",
    ("text_model.", "transformer.text_model.", "encoder.block."): "a text encoder alone",
    ("down_blocks.", "transformer_blocks."): "the denoiser of a diffusers folder alone",
    ("body.", "conv_first.", "model.0."): "an upscaler (ESRGAN)",
}


def check_is_model(header: Header) -> None:
    """Raise ValueError for a file that is known to be something else than a model of images or videos."""
    kind = adapter_kind(header)
    if kind is not None:
        raise ValueError(
            f"{header.file} seems to be a {kind}, not a model: give the base model here; tglo generate "
            "--lora and tglo evaluate --models NAME=FILE take a LoRA of it"
        )
    quantised = header.some(lambda name: name.endswith((".scale_weight", ".quant_map", ".absmax")))
    if quantised is not None:
        raise ValueError(
            f"{header.file} holds quantised weights ({quantised}), which are not read; take the file of the same "
            "model in 16 or 32 bits. model.base_weights quantises in loading"
        )
    channels = header.shape(_IN)[1:2]
    if channels and channels != (4,):
        raise _other(header, _CHANNELS.get(channels[0], f"a model of {channels[0]} input channels"))
    _check_stable_diffusion(header)
    _check_transformers(header)


def adapter_kind(header: Header) -> str | None:
    """Return what kind of LoRA a file holds, None for none."""
    return next(
        (kind for name in header.entries for part, kind in _ADAPTERS.items() if part in name), None
    )


def refuse(header: Header) -> ValueError:
    """Return the error for a file that is of no known layout."""
    if header.has("double_stream_modulation_img.", _UNET + "double_stream_modulation_img."):
        return ValueError(
            f"{header.file} seems to be FLUX.2, which is read as a diffusers folder; give that"
        )
    for prefixes, kind in _OTHERS.items():
        if header.has(*prefixes):
            return ValueError(f"{header.file} seems to be {kind}, not a model: {_WHOLE}")
    examples = ", ".join(sorted(header.entries)[:3])
    return ValueError(
        f"{header.file} is of no known layout (it holds {examples}, ...): known are SD1.x, SD2.x and SDXL as "
        "Civitai and kohya's scripts have them, and FLUX.1, SD3 and Wan. Give a diffusers folder"
    )


def _check_stable_diffusion(header: Header) -> None:
    if _IN not in header:
        return
    adm = _UNET + "label_emb.0.0.weight" in header
    width = header.some(lambda n: n.startswith(_UNET) and n.endswith("attn2.to_k.weight"))
    if adm and (
        header.has("conditioner.embedders.0.model.")
        or (width is not None and header.shape(width)[1] == 1280)
    ):
        raise _other(header, "the refiner of SDXL", "; take the base model")
    if adm and header.has("cond_stage_model.", "embedder."):
        raise _other(header, "an unCLIP model of SD2.1")
    if "edm_mean" in header:
        raise _other(header, "Playground v2.5, with a schedule of its own")


def _check_transformers(header: Header) -> None:
    for prefix in ("", _UNET):
        inputs = header.shape(prefix + "img_in.weight")[1:2]
        if header.has(prefix + "double_blocks.0.") and inputs in ((384,), (128,)):
            raise _other(header, "a FLUX.1 model for filling or for control images")
        if header.has(prefix + "distilled_guidance_layer."):
            raise _other(header, "Chroma")
        if prefix + "head.modulation" not in header:
            continue
        if header.has(prefix + "vace_blocks.", prefix + "motion_encoder.", prefix + "img_emb."):
            raise _other(header, "a Wan model that starts from images or videos")
        if header.shape(prefix + "patch_embedding.weight")[1:2] == (36,):
            raise _other(header, "a Wan model that starts from an image")


def _other(header: Header, kind: str, more: str = "") -> ValueError:
    return ValueError(
        f"{header.file} seems to be {kind}, which is not trained here{more or '; take a text-to-image model'}"
    )
