"""Transformers of tiny flow-matching models in one file, in the layouts of FLUX's, SD3's and Wan's own code.

As in tests/tiny_files.py the names are those of the original code, the other way round from diffusers' converters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import tiny_files

Tensors = dict[str, Tensor]
_FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
_FLUX_BLOCK = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
_SD3 = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
_SD3_BLOCK = {
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_WAN = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "patch_embedding": "patch_embedding",
    "proj_out": "head.head",
}
_WAN_BLOCK = [
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_out.0", "o"),
    ("to_", ""),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
]


_ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"}
_FLUX_ENCODERS = {"clip_l": "text_encoder", "t5xxl": "text_encoder_2"}


def write_whole(folder: Path, file: Path, layout: Callable[[Tensors], Tensors]) -> Path:
    """Write FLUX or SD3 with its VAE and text encoders, as SD3's published file has them and ComfyUI saves them."""
    write_transformer(folder, file, layout, "model.diffusion_model.")
    found = load_file(file)
    (weights,) = (folder / "vae").glob("*.safetensors")
    found |= {f"first_stage_model.{n}": t for n, t in tiny_files.vae(load_file(weights)).items()}
    for theirs, part in (_FLUX_ENCODERS if layout is flux else _ENCODERS).items():
        (weights,) = (folder / part).glob("*.safetensors")
        tensors = load_file(weights)
        if theirs != "t5xxl":
            projection = tensors.pop("text_projection.weight", None)
            tensors = tiny_files.clip(tensors)
            tensors |= {} if projection is None else {"text_projection.weight": projection}
        found |= {f"text_encoders.{theirs}.transformer.{n}": t for n, t in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, file)
    return file


def write_transformer(
    folder: Path, file: Path, layout: Callable[[Tensors], Tensors], prefix: str = ""
) -> Path:
    """Write a tiny folder's transformer as one file and return it. prefix: as ComfyUI's whole checkpoints have it."""
    (weights,) = (folder / "transformer").glob("*.safetensors")
    found = layout(load_file(weights))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + name: tensor.contiguous() for name, tensor in found.items()}, file)
    return file


def flux(weights: Tensors) -> Tensors:
    """Name them as FLUX's code does, with q, k and v (and in single blocks what goes up) in one layer."""
    found: Tensors = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", layer)
        if block is None:
            swapped = "norm_out" in layer
            found[f"{_FLUX[layer]}.{kind}"] = _halves_swapped(tensor) if swapped else tensor
            continue
        single, number, rest = block.groups()
        place = f"{'single' if single else 'double'}_blocks.{number}"
        if rest.endswith(("attn.to_q", "attn.add_q_proj")):
            context = "add" in rest
            names = (
                ["add_q_proj", "add_k_proj", "add_v_proj"] if context else ["to_q", "to_k", "to_v"]
            )
            start = layer.removesuffix(names[0])
            parts = [weights[f"{start}{one}.{kind}"] for one in names]
            if single:
                up = weights[f"{start.removesuffix('attn.')}proj_mlp.{kind}"]
                found[f"{place}.linear1.{kind}"] = torch.cat([*parts, up])
            else:
                found[f"{place}.{'txt' if context else 'img'}_attn.qkv.{kind}"] = torch.cat(parts)
        elif not rest.endswith(("to_k", "to_v", "add_k_proj", "add_v_proj", "proj_mlp")):
            theirs = (_FLUX_SINGLE if single else _FLUX_BLOCK)[rest]
            found[f"{place}.{theirs}.{'scale' if 'attn.norm' in rest else kind}"] = tensor
    return found


def stable_diffusion_3(weights: Tensors) -> Tensors:
    """Name them as SD3's code does, with q, k and v in one layer."""
    last = max(int(n.split(".")[1]) for n in weights if n.startswith("transformer_blocks."))
    found: Tensors = {"pos_embed": weights["pos_embed.pos_embed"]}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", layer)
        if block is None:
            if name != "pos_embed.pos_embed":
                swapped = "norm_out" in layer
                found[f"{_SD3[layer]}.{kind}"] = _halves_swapped(tensor) if swapped else tensor
            continue
        number, rest = block.groups()
        place = f"joint_blocks.{number}"
        if rest.endswith(("to_q", "add_q_proj")):
            names = (
                ["add_q_proj", "add_k_proj", "add_v_proj"]
                if "add" in rest
                else ["to_q", "to_k", "to_v"]
            )
            start = layer.removesuffix(names[0])
            side = "context_block" if "add" in rest else "x_block"
            found[f"{place}.{side}.{rest.split('.')[0]}.qkv.{kind}"] = torch.cat(
                [weights[f"{start}{one}.{kind}"] for one in names]
            )
        elif not rest.endswith(("to_k", "to_v", "add_k_proj", "add_v_proj")):
            swapped = rest == "norm1_context.linear" and int(number) == last
            found[f"{place}.{_SD3_BLOCK[rest]}.{kind}"] = (
                _halves_swapped(tensor) if swapped else tensor
            )
    return found


def wan(weights: Tensors) -> Tensors:
    """Name them as Wan's code does."""
    found: Tensors = {}
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        if name == "scale_shift_table":
            name = "head.modulation"
        elif kind == "scale_shift_table":
            name = f"{layer}.modulation"
        elif layer in _WAN:
            name = f"{_WAN[layer]}.{kind}"
        else:
            for ours, theirs in _WAN_BLOCK:
                layer = layer.replace(ours, theirs)
            layer = re.sub(r"norm[23]$", _swapped_norm, layer)
            name = f"{layer}.{kind}"
        found[name] = tensor
    return found


def _swapped_norm(name: re.Match[str]) -> str:
    return {"norm2": "norm3", "norm3": "norm2"}[name[0]]


def _halves_swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])
