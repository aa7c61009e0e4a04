"""Models in one safetensors file, in the layouts of the original LDM and SDXL code.

The names are written from those layouts' own code, not from diffusers' converters, which are tested with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_file(
    folder: Path,
    file: Path,
    kind: str,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
    more: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a tiny folder's weights ("sd15", "sd2" or "sdxl") as one file and return it.

    dtype: of all tensors; without: parts that are left out; more: tensors beside them.
    """
    parts = {
        "unet": _prefixed("model.diffusion_model.", unet(_weights(folder, "unet"))),
        "vae": _prefixed("first_stage_model.", vae(_weights(folder, "vae"))),
        **_text_encoders(folder, kind),
    }
    whole = {n: t for part, found in parts.items() if part not in without for n, t in found.items()}
    whole = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in whole.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({**whole, **(more or {})}, file, dict(metadata or {}) or None)
    return file


def unet(weights: Tensors, layers: int = 1) -> Tensors:
    """Name a UNet's weights as LDM does. layers: resnets of a level on the way down."""
    return {_unet_name(name, layers, weights): tensor for name, tensor in weights.items()}


def _unet_name(name: str, layers: int, weights: Tensors) -> str:
    for ours, theirs in _UNET.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    found = re.fullmatch(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.+)", name)
    assert found, name
    way, level, kind, number, rest = found.groups()
    if kind == "resnets":
        first, _, last = rest.rpartition(".")
        rest = f"{_RESNET[first]}.{last}"
    if way == "mid":
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{rest}"
    start = int(level) * (layers + 1)
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{1 + start + layers}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{1 + start + int(number)}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        attends = any(other.startswith(f"up_blocks.{level}.attentions.") for other in weights)
        return f"output_blocks.{start + layers}.{1 + attends}.{rest}"
    return f"output_blocks.{start + int(number)}.{int(kind == 'attentions')}.{rest}"


def vae(weights: Tensors) -> Tensors:
    """Name a VAE's weights as LDM does; its attention is made of 1x1 convolutions there."""
    levels = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("decoder.up_blocks."))
    found = {}
    for name, tensor in weights.items():
        if "attentions" in name and name.endswith("weight") and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]
        for ours, theirs in _VAE.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.(resnets|upsamplers\.0)",
            lambda m: f"up.{levels - 1 - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}",
            name,
        )
        found[name] = tensor
    return found


def open_clip(weights: Tensors) -> Tensors:
    """Name a text encoder's weights as OpenCLIP does, with q, k and v in one tensor."""
    weights = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    width = weights["final_layer_norm.weight"].shape[0]
    found = {
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "text_projection": weights.get("text_projection.weight", torch.eye(width)).T,
    }
    for name, tensor in weights.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            continue
        number, rest, kind = layer.groups()
        block = f"transformer.resblocks.{number}"
        if rest.endswith("q_proj"):
            three = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            found[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
        elif not rest.endswith(("k_proj", "v_proj")):
            found[f"{block}.{_OPEN_CLIP[rest]}.{kind}"] = tensor
    return found


def clip(weights: Tensors) -> Tensors:
    """Name a text encoder's weights as transformers did when the layouts were made."""
    return {f"text_model.{n.removeprefix('text_model.')}": tensor for n, tensor in weights.items()}


def _text_encoders(folder: Path, kind: str) -> dict[str, Tensors]:
    first = _weights(folder, "text_encoder")
    if kind == "sd15":
        return {"text_encoder": _prefixed("cond_stage_model.transformer.", clip(first))}
    if kind == "sd2":
        return {"text_encoder": _prefixed("cond_stage_model.model.", open_clip(first))}
    second = open_clip(_weights(folder, "text_encoder_2"))
    return {
        "text_encoder": _prefixed("conditioner.embedders.0.transformer.", clip(first)),
        "text_encoder_2": _prefixed("conditioner.embedders.1.model.", second),
    }


def _weights(folder: Path, part: str) -> Tensors:
    (file,) = (folder / part).glob("*.safetensors")
    return load_file(file)


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}
