"""The published reward models' own structures, written plainly, with their own names of weights.

What the project maps to transformers is compared with these: CLIP as in open_clip, BLIP's image and
text encoders, and the linear head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ClipBlock(nn.Module):
    """Pre-norm attention and MLP; weights fused in nn.MultiheadAttention's in_proj_weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipTransformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ClipBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # (B, N, width)
        x = x.transpose(0, 1)
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class ClipImageTower(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, size: int, patch: int, out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = ClipTransformer(width, heads, layers)
        self.proj = nn.Parameter(torch.randn(width, out))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenClip(nn.Module):
    def __init__(self, vocabulary: int, *, size: int = 28, patch: int = 14, out: int = 32) -> None:
        super().__init__()
        width, context = 128, 77
        self.visual = ClipImageTower(160, 2, 2, size, patch, out)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width))
        self.transformer = ClipTransformer(width, 2, 3)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, out))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))

    def encode_text(self, tokens: Tensor) -> Tensor:  # (B, 77), zeros after the end token
        x = self.token_embedding(tokens) + self.positional_embedding
        mask = torch.full((tokens.shape[1],) * 2, -math.inf).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), tokens.argmax(-1)] @ self.text_projection

    def similarity(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        image, text = self.visual(pixels), self.encode_text(tokens)
        return torch.cosine_similarity(image, text, dim=-1)


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.attn.proj(attend(q, k, v, self.heads))
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))


class BlipVit(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, size: int, patch: int) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(VitBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class BertAttention(nn.Module):
    """Post-norm attention of width to what is `other` wide."""

    def __init__(self, width: int, heads: int, other: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.Module()
        self.self.query = nn.Linear(width, width)
        self.self.key, self.self.value = nn.Linear(other, width), nn.Linear(other, width)
        self.output = bert_output(width, width)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.self.query(x), self.self.key(other), self.self.value(other)
        return self.output.LayerNorm(x + self.output.dense(attend(q, k, v, self.heads, mask)))


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, seen: int) -> None:
        super().__init__()
        self.attention = BertAttention(width, heads, width)
        self.crossattention = BertAttention(width, heads, seen)
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(width, 2 * width)
        self.output = bert_output(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        x = self.crossattention(self.attention(x, x, mask), seen, None)
        y = nn.functional.gelu(self.intermediate.dense(x))
        return self.output.LayerNorm(x + self.output.dense(y))


class BlipBert(nn.Module):
    def __init__(self, vocabulary: int, width: int, heads: int, layers: int, seen: int) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(vocabulary, width)
        self.embeddings.position_embeddings = nn.Embedding(64, width)
        self.embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.embeddings.register_buffer("position_ids", torch.arange(64)[None])
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(BertLayer(width, heads, seen) for _ in range(layers))

    def forward(self, tokens: Tensor, attended: Tensor, seen: Tensor) -> Tensor:
        parts = self.embeddings
        places = parts.position_ids[:, : tokens.shape[1]]
        x = parts.LayerNorm(parts.word_embeddings(tokens) + parts.position_embeddings(places))
        mask = (1.0 - attended[:, None, None, :].float()) * -10_000  # (B, 1, 1, N), as BERT's
        for layer in self.encoder.layer:
            x = layer(x, mask, seen)
        return x


class OriginalImageReward(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.blip = nn.Module()
        self.blip.visual_encoder = BlipVit(128, 2, 2, 32, 16)
        self.blip.text_encoder = BlipBert(vocabulary, 48, 4, 2, 128)
        self.blip.vision_proj, self.blip.text_proj = nn.Linear(128, 8), nn.Linear(48, 8)  # unused
        self.mlp = LinearHead(48)

    def forward(self, pixels: Tensor, tokens: Tensor, attended: Tensor) -> Tensor:
        seen = self.blip.visual_encoder(pixels)
        first = self.blip.text_encoder(tokens, attended, seen)[:, 0]
        return (self.mlp(first)[:, 0] - 0.16717362830052426) / 1.0333394966054072


class LinearHead(nn.Module):
    """Of ImageReward and of the LAION aesthetic predictor: no activations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 24), nn.Dropout(0.2),
            nn.Linear(24, 16), nn.Dropout(0.2),
            nn.Linear(16, 8), nn.Dropout(0.1),
            nn.Linear(8, 4), nn.Linear(4, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def bert_output(into: int, width: int) -> nn.Module:
    output = nn.Module()
    output.dense, output.LayerNorm = nn.Linear(into, width), nn.LayerNorm(width, eps=1e-12)
    return output


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    logits = logits if mask is None else logits + mask
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of a size that lets every part show in the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name == "logit_scale":
            continue
        spread = 0.5 if parameter.ndim == 1 else 1.2 / math.sqrt(parameter[0].numel())
        values = torch.randn(parameter.shape, generator=generator) * spread
        scale = ("ln_" in name or "norm" in name.lower()) and name.endswith("weight")
        parameter.data = 1 + 0.3 * values if scale else values
    return module.eval().requires_grad_(False)
