"""Tiny random reward models as files in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from tests.rewards.originals import LinearHead, OpenClip, OriginalImageReward, randomise
from tests.tiny import build_tokenizer

VOCABULARY = 514  # of build_tokenizer
PROMPTS = ["a red cat", "ein Bär", "x", "", "a photo of a dog that is much longer than the others"]
SIZES = [(28, 28), (64, 40), (33, 90), (28, 57), (200, 31), (10, 7)]  # (width, height)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


def images(count: int = len(SIZES)) -> list[Image.Image]:
    """RGB, smooth with some noise, of various sizes."""
    found = []
    for i in range(count):
        random = np.random.default_rng(i)
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        pixels = np.array(coarse.resize(SIZES[i % len(SIZES)], Image.Resampling.BICUBIC), int)
        pixels += random.integers(-30, 30, pixels.shape)
        found.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return found


def prompts(count: int = len(SIZES)) -> list[str]:
    return [PROMPTS[i % len(PROMPTS)] for i in range(count)]


def clip_folder(folder: Path, *, seed: int = 1, act: str = "quick_gelu") -> Path:
    """CLIPModel in safetensors, with its tokenizer."""
    towers = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": act,
    }
    special = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    config = CLIPConfig(
        projection_dim=24,
        vision_config={**towers, "image_size": 28, "patch_size": 14},
        text_config={**towers, "vocab_size": VOCABULARY, **special},
    )
    randomise(CLIPModel(config), seed).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def hpsv2_folder(folder: Path) -> tuple[Path, OpenClip]:
    """HPS_v2.1_compressed.pt and a tokenizer in the folder "tokenizer"; the model itself."""
    folder.mkdir(parents=True)
    model = randomise(OpenClip(VOCABULARY))
    content = {"state_dict": model.state_dict(), "epoch": 3, "name": "x"}
    torch.save(content, folder / "HPS_v2.1_compressed.pt")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    return folder, model


def aesthetic_folder(folder: Path) -> tuple[Path, LinearHead]:
    """The head's file and a CLIPModel in the folder "clip"; the head."""
    clip_folder(folder / "clip")
    head = randomise(LinearHead(24))
    torch.save(head.state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")
    return folder, head


def imagereward_folder(folder: Path) -> tuple[Path, OriginalImageReward]:
    """ImageReward.pt, med_config.json and vocab.txt; the model."""
    folder.mkdir(parents=True)
    model = randomise(OriginalImageReward(len(WORDS)))
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    text = {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 48,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 64,
        "model_type": "bert",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": len(WORDS),
        "encoder_width": 768,
        "add_cross_attention": True,
    }
    (folder / "med_config.json").write_text(json.dumps(text))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder, model
