"""What the rewards that are read from a Qwen2-VL share: pixels, tokens, weights, hidden states.

A sequence holds one image or video and a text with reward tokens; a head reads the hidden states there.
The authors' code leaves positions to its transformers (4.45), which numbers all tokens in a row there,
image tokens too: no position of height and width, neither in training nor in scoring. So it is done here.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLModel

from tglo.files import read_json
from tglo.rewards.model import RewardModel, build
from tglo.rewards.preprocessing import MEAN, STD
from tglo.rewards.weights import Part

_BEFORE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n"


def base_part(hub: str) -> Part:
    """Return the part that is the folder of the Qwen2-VL below: its configuration and its tokenizer."""
    return Part((("config.json", "tokenizer.json"),), hub)


class Qwen2VLReward(RewardModel):
    """A reward that is read from the last hidden states of reward tokens. Part "base": see `base_part`."""

    pad: str
    """The token that stands for a patch of the image or video."""
    reward_tokens: Sequence[str]

    def read_backbone(self, folder: Path, path: Path, state: Mapping[str, Tensor]) -> None:
        """Build the model without its language head. state: in Qwen2VLModel's names; path: its file."""
        embeddings = state.get("language_model.embed_tokens.weight")
        if embeddings is None:
            raise ValueError(
                f"{path} has no model.embed_tokens.weight: is it another model's file? "
                f"{next(iter(self.parts.values())).download}"
            )
        content = read_json(folder / "config.json")
        if not isinstance(content, dict) or content.get("model_type") != "qwen2_vl":
            raise ValueError(f"{folder}/config.json is not a Qwen2-VL's")
        config: Any = Qwen2VLConfig.from_dict(content)
        config.text_config.vocab_size = len(embeddings)  # reward tokens were added
        config.tie_word_embeddings = False
        self.model = build(Qwen2VLModel, config, path, state, dtype=self.dtype).to(self.device)
        self.patch = config.vision_config.patch_size
        self.merge = config.vision_config.spatial_merge_size
        self.deep = config.vision_config.temporal_patch_size

    def read_tokenizer(self, folder: Path) -> None:
        """Read the tokenizer, to which the reward tokens are added if it lacks them."""
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.tokenizer.add_tokens(
            [AddedToken(token, special=True, normalized=False) for token in self.reward_tokens]
        )
        vocabulary, rows = self.tokenizer.get_vocab(), self.model.config.text_config.vocab_size
        for token in ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", self.pad):
            if token not in vocabulary:
                raise ValueError(f"{folder}/tokenizer.json has no {token}; give the Qwen2-VL's own")
        last = max(vocabulary[token] for token in self.reward_tokens)
        if last >= rows:
            raise ValueError(
                f"{folder}/tokenizer.json gives the reward token number {last}, and the weights have "
                f"{rows} tokens; give the tokenizer of the Qwen2-VL below this model"
            )
        self._special = sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)

    def hidden(self, pixels: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        """Return the hidden states (B, reward tokens, D) float32 on the CPU.

        pixels: of each sequence (T, 3, H, W), standardised. texts: with the reward tokens.
        """
        cut = [patches(frames, self.patch, self.merge, self.deep) for frames in pixels]
        grids = torch.tensor([grid for _, grid in cut])
        counts = [math.prod(grid) // self.merge**2 for _, grid in cut]
        lines = [
            f"{_BEFORE}{self.pad * count}<|vision_end|>{text}{_AFTER}"
            for count, text in zip(counts, texts, strict=True)
        ]
        tokens = [self.tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
        # Padding comes last, where a causal model does not see it.
        ids = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, line in enumerate(tokens):
            ids[row, : len(line)] = torch.tensor(line)
            mask[row, : len(line)] = 1
        seen = self.model.visual(
            torch.cat([values for values, _ in cut]).to(self.device, self.dtype),
            grid_thw=grids.to(self.device),
        ).pooler_output
        text = self.model.language_model
        there = ((ids == self._number(self.pad)) & (mask == 1)).to(self.device)
        embeds = text.embed_tokens(ids.to(self.device))
        embeds = embeds.masked_scatter(there[..., None], seen.to(embeds.dtype))
        positions = torch.arange(ids.shape[1], device=self.device).expand(3, *ids.shape)
        states = text(
            inputs_embeds=embeds,
            attention_mask=mask.to(self.device),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state.to("cpu", torch.float32)
        places = [(ids == self._number(token)) & (mask == 1) for token in self.reward_tokens]
        return torch.stack([states[place] for place in places], 1)

    def _number(self, token: str) -> int:
        return self.tokenizer.get_vocab()[token]

    def plain(self, prompt: str) -> str:
        """Return a prompt in which the name of a special token is only text: a blank breaks it."""
        for token in self._special:
            prompt = prompt.replace(token, f"{token[0]} {token[1:]}")
        return prompt

    @abstractmethod
    def read(self, files: Mapping[str, Path]) -> None: ...


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of Qwen2VLModel, without the language head, which no reward needs.

    The published files have the names of transformers before 4.52; later ones are taken as well.
    """
    found = {}
    for name, value in state.items():
        if name != "lm_head.weight":
            for pattern, replacement in _NAMES:
                name, count = re.subn(pattern, replacement, name)
                if count:
                    break
            found[name] = value
    return found


_NAMES = (  # the first that fits
    (r"^model\.(visual|language_model)\.", r"\1."),
    (r"^model\.", "language_model."),
)


def resized(height: int, width: int, least: int, most: int, unit: int = 28) -> tuple[int, int]:
    """Return the nearest height and width of whole units whose product is from least to most, about in
    the same proportion: Qwen's rule, without its refusal of images longer than 200 times their width.
    """
    new = [max(unit, round(side / unit) * unit) for side in (height, width)]
    if math.prod(new) > most:
        scale = math.sqrt(height * width / most)
        new = [max(unit, math.floor(side / scale / unit) * unit) for side in (height, width)]
    elif math.prod(new) < least:
        scale = math.sqrt(least / (height * width))
        new = [math.ceil(side * scale / unit) * unit for side in (height, width)]
    return new[0], new[1]


def standardised(frames: Iterable[Image.Image] | Tensor) -> Tensor:
    """Return RGB images of one size, or 8-bit pixels (T, 3, H, W), as standardised float32 pixels."""
    if not isinstance(frames, Tensor):
        frames = as_bytes(frames)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (frames.to(torch.float32) / 255 - mean) / std


def as_bytes(frames: Iterable[Image.Image]) -> Tensor:
    """Return RGB images of one size as (T, 3, H, W) uint8."""
    stack = [
        torch.frombuffer(bytearray(f.tobytes()), dtype=torch.uint8).view(*f.size[::-1], 3)
        for f in frames
    ]
    return torch.stack(stack).permute(0, 3, 1, 2)


def patches(
    frames: Tensor, patch: int, merge: int, deep: int
) -> tuple[Tensor, tuple[int, int, int]]:
    """Cut frames (T, 3, H, W) into patches (N, 3 * deep * patch^2) and the grid (t, h, w), N = t h w.

    Patches that are merged later follow each other. The last frame is repeated to a multiple of deep.
    """
    frames = torch.cat([frames, frames[-1:].expand(-len(frames) % deep, -1, -1, -1)])
    grid = len(frames) // deep, frames.shape[2] // patch, frames.shape[3] // patch
    cut = frames.reshape(
        grid[0], deep, 3, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
    )
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid
