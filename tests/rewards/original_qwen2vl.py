"""Qwen2-VL as HPSv3 and VideoReward use it, written plainly: names of weights, positions and all.

Patches are cut by loops and tokens are counted up in a row. What the project builds of transformers' newer
model is compared with this.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH, MERGE, DEEP = 14, 2, 2
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding: x (..., N, D) by angles (N, D / 2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class VisionBlock(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, ratio * width), "fc2": nn.Linear(ratio * width, width)}
        )
        self.heads = heads

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # (N, width), of one frame pair
        q, k, v = self.attn["qkv"](self.norm1(x)).view(len(x), 3, self.heads, -1).unbind(1)
        q, k = (turned(y.transpose(0, 1), angles) for y in (q, k))
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + self.attn["proj"]((weights @ v.transpose(0, 1)).transpose(0, 1).reshape(x.shape))
        y = self.mlp["fc1"](self.norm2(x))
        return x + self.mlp["fc2"](y * torch.sigmoid(1.702 * y))


class Vision(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, out: int, ratio: int) -> None:
        super().__init__()
        proj = nn.Conv3d(3, width, (DEEP, PATCH, PATCH), (DEEP, PATCH, PATCH), bias=False)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        self.blocks = nn.ModuleList(VisionBlock(width, heads, ratio) for _ in range(depth))
        wide = width * MERGE**2
        mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, out))
        self.merger = nn.ModuleDict({"ln_q": nn.LayerNorm(width, 1e-6), "mlp": mlp})
        self.quarter = width // heads // 4

    def forward(self, frames: Tensor) -> Tensor:  # (T, 3, H, W) -> (tokens, out)
        if len(frames) % DEEP:
            frames = torch.cat([frames, frames[-1:]])
        found = []
        speeds = 10000.0 ** (-torch.arange(self.quarter) / self.quarter)
        for at in range(0, len(frames), DEEP):
            block = frames[at : at + DEEP].transpose(0, 1)[None]  # (1, 3, DEEP, H, W)
            embedded = self.patch_embed["proj"](block)[0, :, 0]  # (width, h, w)
            places = [
                (2 * i + a, 2 * j + b)
                for i in range(embedded.shape[1] // 2)
                for j in range(embedded.shape[2] // 2)
                for a in (0, 1)
                for b in (0, 1)
            ]
            x = torch.stack([embedded[:, i, j] for i, j in places])
            angles = torch.stack([torch.cat([i * speeds, j * speeds]) for i, j in places])
            for layer in self.blocks:
                x = layer(x, angles)
            wide = self.merger["ln_q"](x).view(len(x) // MERGE**2, -1)
            found.append(self.merger["mlp"](wide))
        return torch.cat(found)


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


class TextBlock(nn.Module):
    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        head = width // heads
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(width), RmsNorm(width)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(width, width),
                "k_proj": nn.Linear(width, groups * head),
                "v_proj": nn.Linear(width, groups * head),
                "o_proj": nn.Linear(width, width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(width, 2 * width, bias=False),
                "up_proj": nn.Linear(width, 2 * width, bias=False),
                "down_proj": nn.Linear(2 * width, width, bias=False),
            }
        )
        self.heads, self.groups = heads, groups

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # (N, width)
        y = self.input_layernorm(x)
        q = self.self_attn["q_proj"](y).view(len(x), self.heads, -1).transpose(0, 1)
        k = self.self_attn["k_proj"](y).view(len(x), self.groups, -1).transpose(0, 1)
        v = self.self_attn["v_proj"](y).view(len(x), self.groups, -1).transpose(0, 1)
        k, v = (z.repeat_interleave(self.heads // self.groups, 0) for z in (turned(k, angles), v))
        logits = turned(q, angles) @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        logits = logits.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -math.inf)
        x = x + self.self_attn["o_proj"]((logits.softmax(-1) @ v).transpose(0, 1).reshape(x.shape))
        y = self.post_attention_layernorm(x)
        gated = F.silu(self.mlp["gate_proj"](y)) * self.mlp["up_proj"](y)
        return x + self.mlp["down_proj"](gated)


class OriginalQwen2VL(nn.Module):
    """Names as before transformers 4.52: visual.*, model.*, lm_head, and the head rm_head."""

    def __init__(self, vocabulary: int, head: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.visual = Vision(width=32, heads=2, depth=2, out=width, ratio=2)
        layers = nn.ModuleList(TextBlock(width, 4, 2) for _ in range(2))
        embed = nn.Embedding(vocabulary, width)
        self.model = nn.ModuleDict(
            {"embed_tokens": embed, "layers": layers, "norm": RmsNorm(width)}
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.rm_head = head

    @torch.no_grad()
    def forward(self, frames: Tensor, ids: list[int], pad: int, rewards: list[int]) -> Tensor:
        """The head (k, out) at each of the reward tokens, of one sequence."""
        x = self.model["embed_tokens"](torch.tensor(ids)).clone()
        x[torch.tensor(ids) == pad] = self.visual(frames)
        half = x.shape[1] // 4 // 2
        speeds = 1e6 ** (-torch.arange(half) / half)
        angles = torch.arange(len(ids))[:, None] * speeds  # in a row, image tokens too
        for layer in self.model["layers"]:
            x = layer(x, angles)
        x = self.model["norm"](x)
        return self.rm_head(torch.stack([x[ids.index(token)] for token in rewards]))


def config(vocabulary: int, width: int = 32) -> dict:
    """config.json as published with transformers 4.45."""
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": width, "num_heads": 2, "mlp_ratio": 2,
              "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
              "temporal_patch_size": 2}  # fmt: skip
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "image_token_id": 260,
        "video_token_id": 261,
        "vision_start_token_id": 258,
        "vision_end_token_id": 259,
        "vision_token_id": 262,
        "vocab_size": vocabulary,
        "vision_config": vision,
    }
