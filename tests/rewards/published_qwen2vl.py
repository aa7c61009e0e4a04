"""Tiny random HPSv3 and VideoReward in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from tests.rewards.original_qwen2vl import OriginalQwen2VL, config
from tests.rewards.originals import randomise

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]  # fmt: skip
RATE = "Rate {text_prompt} "
GRADE = "<|Reward|> of ten\n"
JUDGE = "Good?\n<|VQ_reward|> Moves it? <|MQ_reward|>\nIs it {text_prompt}\n<|TA_reward|>\n"
NORM = {"VQ": (3.6, 2.2), "MQ": (1.1, 1.4), "TA": (2.8, 0.9)}


def base_folder(folder: Path) -> tuple[Path, Tokenizer]:
    """config.json and tokenizer.json: one token a byte, then the special ones from 256 on."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config(256 + len(SPECIAL))))
    return folder, tokenizer


def hpsv3_folder(folder: Path) -> tuple[Path, OriginalQwen2VL]:
    """HPSv3.safetensors and the folder "base"; the model."""
    base_folder(folder / "base")
    (folder / "data_collator_qwen.py").write_text(
        f'raise SystemExit\nOTHER = 1\nINSTRUCTION = """{RATE}"""\nprompt_with_special_token = {GRADE!r}\n'
    )
    head = nn.Sequential(
        nn.Linear(32, 24),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(24, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )
    model = randomise(OriginalQwen2VL(256 + len(SPECIAL) + 1, head))
    save_file(model.state_dict(), folder / "HPSv3.safetensors")
    return folder, model


def videoreward_folder(
    folder: Path, rows: int = 1, *, full: bool = True
) -> tuple[Path, OriginalQwen2VL]:
    """model_config.json, checkpoint-7 and "base"; the model with its LoRA merged.

    full: model.pth in peft's names; otherwise two files, and the base's weights in "base".
    """
    base_folder(folder / "base")
    (folder / "instruction.txt").write_text(JUDGE)
    model = randomise(OriginalQwen2VL(256 + len(SPECIAL) + 3, nn.Linear(32, rows, bias=False)), 3)
    (folder / "checkpoint-7").mkdir(parents=True)
    (folder / "checkpoint-5").mkdir()
    content = {
        "data_config": {"fps": 2.0, "max_frame_pixels": 200704, "num_frames": None,
                        "prompt_template_type": "detailed_special", "sample_type": "uniform"},
        "model_config": {"output_dim": rows, "use_special_tokens": True},
        "peft_lora_config": {"lora_r": 4, "lora_alpha": 8, "use_rslora": False},
        "inference_config": {f"{name}_{key}": value for name, pair in NORM.items()
                             for key, value in zip(("mean", "std"), pair, strict=True)},
    }  # fmt: skip
    (folder / "model_config.json").write_text(json.dumps(content))
    state, lora, generator = {}, {}, torch.Generator().manual_seed(5)
    merged = model.state_dict()
    for name, value in merged.items():
        if "_proj." not in name or name.startswith("visual") or value.ndim != 2:
            plain = name.replace("_proj.", "_proj.base_layer.") if "_proj." in name else name
            state[f"base_model.model.{plain}"] = value.clone()
            continue
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        state[f"{stem}.base_layer.weight"] = value.clone()
        down = torch.randn(4, value.shape[1], generator=generator) / 8
        up = torch.randn(len(value), 4, generator=generator) / 8
        lora[f"{stem}.lora_A.default.weight"], lora[f"{stem}.lora_B.default.weight"] = down, up
        merged[name] = value + 8 / 4 * up @ down
    model.load_state_dict(merged)
    if full:
        torch.save({**state, **lora}, folder / "checkpoint-7" / "model.pth")
        return folder, model
    plain = {
        n.removeprefix("base_model.model.").replace(".base_layer", ""): v for n, v in state.items()
    }
    trained = ("visual.", "rm_head", "model.embed_tokens")
    base = {
        name: value + 1 if name.startswith("visual.") else value[:262] if "embed" in name else value
        for name, value in plain.items()
        if name != "rm_head.weight"
    }
    save_file(base, folder / "base" / "model-00001-of-00001.safetensors")
    others = {f"base_model.model.{n}": v for n, v in plain.items() if n.startswith(trained)}
    torch.save(others, folder / "checkpoint-7" / "non_lora_state_dict.pth")
    save_file(
        {n.replace(".default", ""): v for n, v in lora.items()},
        folder / "checkpoint-7" / "adapter_model.safetensors",
    )
    return folder, model
