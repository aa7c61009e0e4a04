"""HPSv3 (arXiv 2508.03789): a Qwen2-VL-7B reads the image and the prompt, a head gives mean and deviation.

The published file has the whole fine-tuned model with the head "rm_head". Images, prompts and the
instruction around them are as in github.com/MizzenAI/HPSv3, which the instruction is read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from PIL import Image
from torch import Tensor, nn

from tglo.data.images import as_rgb
from tglo.rewards.instructions import PART, PROMPT, Instruction
from tglo.rewards.qwen2_vl import (
    Qwen2VLReward,
    base_part,
    from_published,
    resized,
    standardised,
)
from tglo.rewards.weights import WEIGHTS, Part, load_state

FILE = "HPSv3.safetensors"
PIXELS = 256 * 28 * 28  # of every image, whatever its size
_HEAD = "rm_head."
REWARD = "<|Reward|>"  # the token that the head reads
INSTRUCTION = Instruction(
    "MizzenAI/HPSv3",
    "hpsv3/dataset/data_collator_qwen.py",
    ("INSTRUCTION", "prompt_with_special_token"),
    (REWARD,),
    digest="f6ee57479d4e9eee",
    package=True,
)


class HPSv3(Qwen2VLReward):
    """The HPSv3 reward model."""

    parts: ClassVar[Mapping[str, Part]] = {
        WEIGHTS: Part(((FILE,),), "MizzenAI/HPSv3", single=True),
        "base": base_part("Qwen/Qwen2-VL-7B-Instruct"),
        PART: INSTRUCTION.part,
    }
    pad, reward_tokens = "<|image_pad|>", (REWARD,)

    def read(self, files: Mapping[str, Path]) -> None:
        self.instruction = INSTRUCTION.read(files[PART])
        path = files[WEIGHTS]
        state = load_state(path)
        head = {name: state.pop(name) for name in list(state) if name.startswith(_HEAD)}
        self.read_backbone(files["base"], path, from_published(state))
        self.read_tokenizer(files["base"])
        self.head = _head(path, head, self.model.config.text_config.hidden_size)

    def score(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return the means (B,) of the preference; the deviation is not used, as by its authors."""
        return self.mean_and_deviation(images, prompts)[:, 0]

    def mean_and_deviation(self, images: list[Image.Image], prompts: list[str]) -> Tensor:
        """Return the head's two numbers (B, 2)."""
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(prepare, images))
        texts = [self.instruction.replace(PROMPT, self.plain(prompt)) for prompt in prompts]
        return self.head(self.hidden(pixels, texts)[:, 0])


def prepare(image: Image.Image) -> Tensor:
    """Return an image as (1, 3, H, W), scaled to about PIXELS pixels by PIL's bicubic."""
    image = as_rgb(image)
    height, width = resized(image.height, image.width, PIXELS, PIXELS)
    return standardised([image.resize((width, height), Image.Resampling.BICUBIC)])


def _head(path: Path, state: Mapping[str, Tensor], width: int) -> nn.Sequential:
    """Build the head: three linear layers with ReLU in between, numbered as with the dropout of training."""
    numbers, sizes = (0, 3, 5), [width]
    for number in numbers:
        weight = state.get(f"{_HEAD}{number}.weight")
        if weight is None or weight.ndim != 2:
            raise ValueError(f"{path} has no {_HEAD}{number}.weight; give the published {FILE}")
        sizes.append(len(weight))
    layers = [nn.Linear(into, out) for into, out in pairwise(sizes)]
    head = nn.Sequential(layers[0], nn.ReLU(), nn.Identity(), layers[1], nn.ReLU(), layers[2])
    try:
        head.load_state_dict({name.removeprefix(_HEAD): value for name, value in state.items()})
    except RuntimeError as error:
        raise ValueError(f"{path}: the head {_HEAD}* does not fit: {error}") from None
    if sizes[-1] != 2:
        raise ValueError(
            f"{path}: the head gives {sizes[-1]} numbers; HPSv3's gives mean and deviation"
        )
    return head.float().eval().requires_grad_(False)
