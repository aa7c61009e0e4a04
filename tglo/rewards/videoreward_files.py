"""VideoReward's published folder: model_config.json and checkpoint-N/.

A checkpoint has model.pth, the whole model in peft's names, or the LoRA and the other trained weights in two files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tglo.files import read_json
from tglo.rewards.weights import Part, load_state, stamp

CONFIG, FULL = "model_config.json", "model.pth"
LORA, OTHERS = "adapter_model.safetensors", "non_lora_state_dict.pth"
NAMES = ("VQ", "MQ", "TA")
PUBLISHED = Part(
    ((CONFIG,),),
    "KwaiVGI/VideoReward",
    also=tuple(f"checkpoint-*/{name}" for name in (FULL, LORA, OTHERS)),
)


def folder_stamp(folder: Path) -> str:
    """Return what changes when the configuration or the latest checkpoint does."""
    found = {CONFIG: folder / CONFIG}
    found |= {path.name: path for path in checkpoint_of(folder).iterdir()}
    return stamp({name: found[name] for name in (CONFIG, FULL, LORA, OTHERS) if name in found})


def checkpoint_of(folder: Path) -> Path:
    """Return the folder of the latest checkpoint."""
    found = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    whole = [p for p in found if (p / FULL).is_file() or (p / LORA).is_file()]
    if not whole:
        raise ValueError(f"{folder} has no checkpoint-N folder with {FULL}, or {LORA} and {OTHERS}")
    return max(whole, key=lambda path: int(path.name[11:]))


def settings_of(path: Path) -> dict[str, Any]:
    """Read what scores depend on. ValueError naming what is missing or is not this model's."""
    content = read_json(path)
    try:
        data, lora, norm = (
            content[key] for key in ("data_config", "peft_lora_config", "inference_config")
        )
        expected = {
            "prompt_template_type": "detailed_special",
            "sample_type": "uniform",
        }
        for key, value in expected.items():
            if data[key] != value:
                raise ValueError(f"{path}: {key} is {data[key]!r}; known is {value!r}")
        if data.get("num_frames") is not None:
            raise ValueError(
                f"{path}: num_frames is {data['num_frames']}; known is none, but frames at a rate (fps)"
            )
        try:
            found: dict[str, Any] = {
                "fps": float(data["fps"]),
                "max_frame_pixels": int(data["max_frame_pixels"]),
                "scale": lora["lora_alpha"]
                / (math.sqrt if lora["use_rslora"] else int)(lora["lora_r"]),
                "mean": [float(norm[f"{name}_mean"]) for name in NAMES],
                "deviation": [float(norm[f"{name}_std"]) for name in NAMES],
            }
            if not all(number > 0 for number in (found["fps"], *found["deviation"])):
                raise ValueError("fps and the three _std must be above 0")
            return found
        except (ArithmeticError, ValueError) as error:
            raise ValueError(
                f"{path} has a number that cannot be: {error}; give the published {CONFIG}"
            ) from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks {error}; give the published {CONFIG}") from None


def state_of(checkpoint: Path, base: Path, scale: float) -> tuple[Path, dict[str, Tensor]]:
    """Return the weights with the LoRA merged, in the names of transformers 4.45, and their file."""
    path = checkpoint / FULL
    if path.is_file():
        return path, merged(load_state(path), scale)
    path = checkpoint / LORA
    state: dict[str, Tensor] = {}
    for file in sorted(base.glob("model*.safetensors")):
        state |= load_state(file)
    if not state:
        raise ValueError(
            f"{checkpoint} holds a LoRA, and {base} no model*.safetensors to merge it into; name the "
            "folder of the whole base as base=./PLACE"
        )
    others = checkpoint / OTHERS
    trained = {**load_state(path), **(load_state(others) if others.is_file() else {})}
    return path, merged(
        {**state, **{_plain(name): value for name, value in trained.items()}}, scale
    )


def merged(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return peft's weights as those of a plain model: W + scale B A in the place of W, A and B."""
    plain = {_plain(name): value for name, value in state.items()}
    found = {name: value for name, value in plain.items() if ".lora_" not in name}
    for name, down in plain.items():
        if name.endswith(".lora_A.weight"):
            whole = name.replace(".lora_A.", ".")
            up = plain.get(name.replace(".lora_A.", ".lora_B."))
            if up is None or whole not in found:
                raise ValueError(f"a LoRA has {name} without its other half or its weight")
            found[whole] = found[whole].float() + scale * (up.float() @ down.float())
    return found


def _plain(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return re.sub(r"(\.lora_[AB])\.default\.", r"\1.", name)
