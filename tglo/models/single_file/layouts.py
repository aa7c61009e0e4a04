"""Which model a safetensors file holds, from the names and shapes in its header."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from tglo.models.single_file.header import Header
from tglo.models.single_file.refusals import check_is_model, refuse

log = logging.getLogger(__name__)
UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_V_PREDICTION = ("v", "v_prediction", "v-prediction", "vpred")
_TRANSFORMER_PARTS = {
    "vae": ("vae.", _VAE),
    "text_encoder": ("text_encoders.clip_l.transformer.",),
}
_T5 = ("text_encoders.t5xxl.transformer.",)


@dataclass(frozen=True)
class Layout:
    """What a file was found to be."""

    pipeline: str
    """The class of diffusers' pipeline."""
    title: str
    parts: Mapping[str, str]
    """The pipeline's parts that the file holds, each with the beginning of its tensors' names."""
    repository: str
    """The hub model that has what the file does not hold."""
    published: str = ""
    """The architecture, where tglo.models.single_file.published knows its configurations."""
    v_prediction: bool = False
    zero_snr: bool = False
    """Trained with a schedule that ends in pure noise."""


def recognise(header: Header) -> Layout:
    """Return what the file is. ValueError, saying what it seems to be instead, for what is not trained."""
    check_is_model(header)
    if UNET + "input_blocks.0.0.weight" in header:
        return _stable_diffusion(header)
    prefix = UNET if header.has(UNET) else ""
    for read in (_flux, _stable_diffusion_3, _wan):
        found = read(header, prefix)
        if found is not None:
            return found
    raise refuse(header)


def _stable_diffusion(header: Header) -> Layout:
    width = _context_width(header)
    if UNET + "label_emb.0.0.weight" in header:
        return _xl(header)
    parts = _held(header, {"unet": (UNET,), "vae": (_VAE, "vae.")})
    if header.has("cond_stage_model.model.") or width == 1024:
        parts |= _held(header, {"text_encoder": ("cond_stage_model.model.",)})
        v, zero_snr = _prediction(header, default=True, title="SD2.x")
        repository = "stabilityai/stable-diffusion-2-1" + ("" if v else "-base")
        return Layout(
            "StableDiffusionPipeline", "SD2.x", parts, repository, "sd21", v, zero_snr
        )  # fmt: skip
    parts |= _held(header, {"text_encoder": ("cond_stage_model.transformer.",)})
    v, zero_snr = _prediction(header, default=False, title="SD1.x")
    repository = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    return Layout("StableDiffusionPipeline", "SD1.x", parts, repository, "sd15", v, zero_snr)


def _xl(header: Header) -> Layout:
    parts = _held(
        header,
        {
            "unet": (UNET,),
            "vae": (_VAE, "vae."),
            "text_encoder": ("conditioner.embedders.0.transformer.",),
            "text_encoder_2": ("conditioner.embedders.1.model.",),
        },
    )
    v, zero_snr = _prediction(header, default=False, title="SDXL")
    repository = "stabilityai/stable-diffusion-xl-base-1.0"
    return Layout("StableDiffusionXLPipeline", "SDXL", parts, repository, "sdxl", v, zero_snr)


def _flux(header: Header, prefix: str) -> Layout | None:
    if prefix + "double_blocks.0.img_attn.norm.key_norm.scale" not in header:
        return None
    guided = prefix + "guidance_in.in_layer.weight" in header
    title = "FLUX.1-dev" if guided else "FLUX.1-schnell"
    parts = _with_transformer(header, prefix, {"text_encoder_2": _T5})
    return Layout("FluxPipeline", title, parts, f"black-forest-labs/{title}")


def _stable_diffusion_3(header: Header, prefix: str) -> Layout | None:
    if prefix + "joint_blocks.0.context_block.adaLN_modulation.1.bias" not in header:
        return None
    more = {"text_encoder_2": ("text_encoders.clip_g.transformer.",), "text_encoder_3": _T5}
    parts = _with_transformer(header, prefix, more)
    name = "stable-diffusion-3-medium-diffusers"
    if header.has(prefix + "joint_blocks.37."):
        name = "stable-diffusion-3.5-large"
    elif header.has(prefix + "joint_blocks.0.x_block.attn2."):
        name = "stable-diffusion-3.5-medium"
    title = name.removesuffix("-diffusers")
    return Layout("StableDiffusion3Pipeline", title, parts, f"stabilityai/{name}")


def _wan(header: Header, prefix: str) -> Layout | None:
    if prefix + "head.modulation" not in header:
        return None
    width = header.shape(prefix + "patch_embedding.weight")[:1]
    titles: dict[tuple[int, ...], str]
    titles = {(1536,): "Wan2.1-T2V-1.3B", (3072,): "Wan2.2-TI2V-5B"}
    title = titles.get(width, "Wan2.1-T2V-14B")
    parts = _with_transformer(header, prefix, {})
    return Layout("WanPipeline", title, parts, f"Wan-AI/{title}-Diffusers")


def _with_transformer(
    header: Header, prefix: str, more: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    return {"transformer": prefix} | _held(header, {**_TRANSFORMER_PARTS, **more})


def _held(header: Header, prefixes: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the parts that the file has, each with the first of its prefixes that is there."""
    found = {
        part: next((p for p in choices if header.has(p)), None)
        for part, choices in prefixes.items()
    }
    return {part: prefix for part, prefix in found.items() if prefix is not None}


def _context_width(header: Header) -> int | None:
    name = header.some(lambda n: n.startswith(UNET) and n.endswith("attn2.to_k.weight"))
    return None if name is None else header.shape(name)[1]


def _prediction(header: Header, default: bool, title: str) -> tuple[bool, bool]:
    """Return whether the model predicts velocities, and whether its schedule ends in pure noise."""
    zero_snr = "ztsnr" in header
    told = header.metadata
    if "v_pred" in header:
        return True, zero_snr
    stated = told.get("modelspec.prediction_type", "").lower()
    if not stated and told.get("ss_v_parameterization"):
        stated = "v" if told["ss_v_parameterization"] == "True" else "epsilon"
    if stated:
        log.info("%s says of itself that its prediction is %r", header.file, stated)
        return stated in _V_PREDICTION, zero_snr
    if default:  # as diffusers assumes of SD2.x
        log.info(
            "%s, of %s, does not say what it predicts; v-prediction is taken, as SD2.1 does. If it is a "
            "base model of 512 pixels (epsilon), give the folder or hub id of one as model.config "
            "(--model-config)", header.file, title,
        )  # fmt: skip
    return default, zero_snr
