"""VideoReward (arXiv 2501.13918): visual quality, motion quality and text alignment of a video.

A Qwen2-VL-2B with LoRA reads the frames and the prompt; a linear head reads three reward tokens. The
overall reward is the sum of the three, each less its mean and divided by its deviation. Frames and
instruction are as in github.com/KwaiVGI/VideoAlign, which the instruction is read from.

Scorers of the four names share one network, which computes a batch for all of them once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch import Tensor

from tglo.data.images import as_rgb
from tglo.data.video import Video
from tglo.rewards.instructions import PART, PROMPT, Instruction
from tglo.rewards.model import RewardModel
from tglo.rewards.qwen2_vl import (
    Qwen2VLReward,
    as_bytes,
    base_part,
    from_published,
    resized,
    standardised,
)
from tglo.rewards.videoreward_files import (
    CONFIG,
    NAMES,
    PUBLISHED,
    checkpoint_of,
    folder_stamp,
    settings_of,
    state_of,
)
from tglo.rewards.weights import WEIGHTS, Part, stamp

LEAST_PIXELS = 128 * 28 * 28  # of a frame
LEAST_FRAMES, MOST_FRAMES = 4, 768
REWARDS = tuple(f"<|{name}_reward|>" for name in NAMES)  # the tokens that the head reads
INSTRUCTION = Instruction(
    "KwaiVGI/VideoAlign",
    "prompt_template.py",
    ("DETAILED_PROMPT_WITH_SPECIAL_TOKEN",),
    REWARDS,
    digest="fdb6309bac618dd0",
)


PARTS: Mapping[str, Part] = {
    WEIGHTS: PUBLISHED,
    "base": base_part("Qwen/Qwen2-VL-2B-Instruct"),
    PART: INSTRUCTION.part,
}


class Network(Qwen2VLReward):
    """What gives the three rewards."""

    parts, takes = PARTS, "videos"
    pad, reward_tokens = "<|video_pad|>", REWARDS

    def read(self, files: Mapping[str, Path]) -> None:
        self.instruction = INSTRUCTION.read(files[PART])
        folder, base = files[WEIGHTS], files["base"]
        self.identity += " " + folder_stamp(folder)
        self.settings = settings_of(folder / CONFIG)
        path, state = state_of(checkpoint_of(folder), base, self.settings["scale"])
        head = state.pop("rm_head.weight", None)
        if head is None or head.ndim != 2 or len(head) not in (1, 3):
            shape = None if head is None else tuple(head.shape)
            raise ValueError(f"{path}: rm_head.weight is {shape}; it must have 1 or 3 rows")
        self.head = head.to(torch.float32)
        self.read_backbone(base, path, from_published(state))
        self.read_tokenizer(base)
        self._last: tuple[Sequence[Video], Sequence[str], Tensor] = ([], [], torch.zeros(0, 3))

    def score(self, videos: list[Video], prompts: list[str]) -> Tensor:  # type: ignore[override]
        """Return VQ, MQ and TA (B, 3) float64, each normalised."""
        before, said, found = self._last
        if prompts != said or list(map(id, videos)) != list(map(id, before)):
            found = self._rewards(videos, prompts)
            self._last = list(videos), list(prompts), found
        return found

    def _rewards(self, videos: Sequence[Video], prompts: Sequence[str]) -> Tensor:
        fps, most = self.settings["fps"], self.settings["max_frame_pixels"]
        pixels = [prepare(video, fps, most) for video in videos]
        texts = [self.instruction.replace(PROMPT, self.plain(prompt)) for prompt in prompts]
        logits = self.hidden(pixels, texts) @ self.head.T  # (B, token, row of the head)
        # A head of three rows has one for each token; the published one has a single row for all.
        raw = logits.diagonal(dim1=1, dim2=2) if len(self.head) == 3 else logits[..., 0]
        mean, deviation = (torch.tensor(self.settings[key]) for key in ("mean", "deviation"))
        return (raw.double() - mean) / deviation

    def choose(self, count: int, rate: float) -> list[int]:
        """Return the numbers of the frames that are seen; what chooses of those takes all."""
        return sampled(count, rate, self.settings["fps"])

    def shrink(self, frame: Image.Image) -> Image.Image:
        """Return a frame as the model sees it, so that no larger one is kept."""
        size = resized(frame.height, frame.width, LEAST_PIXELS, self.settings["max_frame_pixels"])
        pixels = _scaled(as_bytes([as_rgb(frame)]), size)[0]
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


_NETWORKS: WeakValueDictionary[tuple[str, ...], Network] = WeakValueDictionary()


def network(files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> Network:
    """Return the network of these files, the same one as long as a scorer has it and the files stay."""
    places = (f"{part}={path.resolve()}" for part, path in files.items())
    key = *places, stamp(files), folder_stamp(files[WEIGHTS]), str(device), str(dtype)
    found = _NETWORKS.get(key)
    if found is None:
        found = _NETWORKS[key] = Network(files, device, dtype)
    return found


class VideoReward(RewardModel):
    """The overall reward, about 0 for an average video of the training set."""

    parts: ClassVar[Mapping[str, Part]] = PARTS
    takes = "videos"

    def read(self, files: Mapping[str, Path]) -> None:
        self.network = network(files, self.device, self.dtype)
        self.identity = f"{type(self).__name__} of {self.network.identity}"
        self.choose, self.shrink = self.network.choose, self.network.shrink

    def score(self, videos: list[Video], prompts: list[str]) -> Tensor:  # type: ignore[override]
        return self.network.score(videos, prompts).sum(-1)


class VisualQuality(VideoReward):
    """VideoReward's VQ alone."""

    which = 0

    def score(self, videos: list[Video], prompts: list[str]) -> Tensor:  # type: ignore[override]
        return self.network.score(videos, prompts)[:, self.which]


class MotionQuality(VisualQuality):
    """VideoReward's MQ alone."""

    which = 1


class TextAlignment(VisualQuality):
    """VideoReward's TA alone."""

    which = 2


def prepare(video: Video, fps: float, most: int) -> Tensor:
    """Return the sampled frames (T, 3, H, W), standardised, each of LEAST_PIXELS to `most` pixels."""
    chosen = [as_rgb(video.frames[n]) for n in sampled(len(video.frames), video.rate, fps)]
    if len({frame.size for frame in chosen}) != 1:
        raise ValueError(f"a video has frames of {len({f.size for f in chosen})} sizes; scale them")
    size = resized(chosen[0].height, chosen[0].width, LEAST_PIXELS, most)
    return standardised(_scaled(as_bytes(chosen), size))


def _scaled(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale frames (T, 3, H, W) of 8 bits, each by itself."""
    if frames.shape[2:] == size:
        return frames
    return torch.nn.functional.interpolate(frames, size=size, mode="bicubic", antialias=True)


def sampled(count: int, rate: float, fps: float) -> list[int]:
    """Return which of `count` frames are seen: `fps` a second, evenly from the first to the last; an even
    number from 4 (or all) to 768. A single frame is seen twice, where the authors refuse it.
    """
    if count < 1 or not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"a video has {count} frames at {rate} a second; it needs one and a rate")
    if count == 1:
        return [0, 0]
    most = min(MOST_FRAMES, count) // 2 * 2
    # Rounded so that the frames which were seen are seen again: their rate is only near count / length.
    wanted = round(round(min(max(count / rate * fps, LEAST_FRAMES), most), 6) / 2) * 2
    return torch.linspace(0, count - 1, wanted).round().long().tolist()
