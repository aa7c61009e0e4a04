"""Networks that read drawings: the reader in the faithfulness reward, and a judge that no reward uses.

Both are convolutional networks fitted on true drawings of all scenes, including the held-out ones;
they differ in width, in seed, and in the drawings that they saw. `python -m tglo.shapes.reader` fits them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tglo.shapes import drawing, scenes
from tglo.shapes.weights import shipped

FILES = {name: Path(__file__).parent / f"{name}.safetensors" for name in ("reader", "judge")}
WIDTHS = {"reader": 24, "judge": 32}
SEEDS = {"reader": 0, "judge": 1}

_THING = (len(scenes.SIZES), len(scenes.COLOURS), len(scenes.SHAPES))
CLASSES = (len(scenes.AXES), *_THING, *_THING)
"""The number of answers to each of seven questions (see Scene.codes); one more means "no scene"."""


class SceneReader(nn.Sequential):
    """Maps drawings (B, 3, 32, 32) in [0, 1] to logits (B, 33) of the seven questions, in their order."""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, stride in ((1, 2), (1, 1), (2, 2), (2, 1), (3, 2)):
            layers += [nn.Conv2d(inputs, outputs * width, 3, stride, padding=1), nn.ReLU()]
            inputs = outputs * width
        answers = sum(classes + 1 for classes in CLASSES)
        layers += [nn.Flatten(), nn.Linear(inputs * 16, 96), nn.ReLU(), nn.Linear(96, answers)]
        super().__init__(*layers)

    def questions(self, pixels: Tensor) -> list[Tensor]:
        """Return the logits (B, classes + 1) of each question."""
        return list(self(pixels).split([classes + 1 for classes in CLASSES], dim=1))


@lru_cache(maxsize=2)
def load(name: str) -> SceneReader:
    """Load the fitted reader or judge that ships with the package, in float32."""
    reader = SceneReader(WIDTHS[name])
    reader.load_state_dict({k: v.float() for k, v in load_file(shipped(FILES[name])).items()})
    return reader.eval()


@torch.no_grad()
def agreement(
    images: Sequence[Image.Image], prompts: Sequence[str], name: str = "reader"
) -> NDArray[np.float64]:
    """Return the probability of the prompt's answer to each question, (B, 7).

    Raises ValueError for a prompt that does not ask for a scene, or lists of different lengths.
    """
    check_pairs(images, prompts)
    codes = np.array([scenes.parse(prompt).codes() for prompt in prompts]).reshape(-1, len(CLASSES))
    pixels = torch.from_numpy(drawing.to_array(images)).permute(0, 3, 1, 2).contiguous()
    answers = [
        # One image at a time gives the same numbers except for the order of float sums.
        logits.double().softmax(dim=1).gather(1, torch.from_numpy(code)[:, None])[:, 0]
        for logits, code in zip(load(name).questions(pixels), codes.T, strict=True)
    ]
    return torch.stack(answers, dim=1).numpy()


def check_pairs(images: Sequence[Image.Image], prompts: Sequence[str]) -> None:
    """Raise ValueError for lists of different lengths."""
    if len(images) != len(prompts):
        raise ValueError(
            f"every image needs its prompt: got {len(images)} images and {len(prompts)} prompts"
        )


def fit(name: str, steps: int = 3000, drawings: int = 24_576) -> SceneReader:
    """Fit a reader on `drawings` drawings; this takes some minutes on one CPU core."""
    torch.manual_seed(SEEDS[name])
    generator = np.random.default_rng((SEEDS[name], 31))
    lessons = Lessons(generator, drawings)
    reader = SceneReader(WIDTHS[name])
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        pixels, codes = lessons.draw(scenes_=96, others=32)
        answers = zip(reader.questions(pixels), codes.T, strict=True)
        loss = torch.stack([cross_entropy(logits, code) for logits, code in answers]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            print(f"{name} {step}/{steps}: loss {loss.item():.4f}", flush=True)
    return reader.eval()


class Lessons:
    """Drawings of all scenes, and pictures made from them that show no scene."""

    def __init__(self, generator: np.random.Generator, drawings: int) -> None:
        self.generator = generator
        known = scenes.all_scenes(held_out=False) + scenes.all_scenes(held_out=True)
        whole, alone, codes = [], [], []
        for part in np.array_split(generator.integers(len(known), size=drawings), drawings // 64):
            chosen = [known[i] for i in part]
            layout = drawing.random_layout(chosen, generator)
            whole.append(drawing.draw(chosen, layout))
            codes += [scene.codes() for scene in chosen]
            layout.radii[:8, generator.integers(2)] = 1e-3  # too small to be drawn
            alone.append(drawing.draw(chosen, layout)[:8])
        self._whole, self._alone = np.concatenate(whole), np.concatenate(alone)
        self._codes = np.array(codes)

    def draw(self, *, scenes_: int, others: int) -> tuple[Tensor, Tensor]:
        """Return drawings (B, 3, 32, 32) of scenes, then of others, and their answers (B, 7) int64.

        The others show no scene: two drawings over each other, one thing alone, a drawing cut in
        halves, and a blur.
        """
        rows = self.generator.integers(len(self._whole), size=scenes_ + others)
        drawn, codes = self._whole[rows], self._codes[rows]
        for index in range(scenes_, len(rows)):
            kind = index % 4
            if kind == 0:
                drawn[index] = (drawn[index] + drawn[self.generator.integers(scenes_)]) / 2
            elif kind == 1:
                drawn[index] = self._alone[self.generator.integers(len(self._alone))]
            elif kind == 2:
                # Along the line through both things, so that one of them is cut.
                drawn[index] = np.roll(drawn[index], drawing.SIZE // 4, axis=int(codes[index, 0]))
            else:
                small = drawn[index].reshape(4, 8, 4, 8, 3).mean(axis=(1, 3))
                drawn[index] = small.repeat(8, axis=0).repeat(8, axis=1)
        codes[scenes_:] = CLASSES
        shifts = self.generator.integers(-1, 2, size=(len(drawn), 2))
        for plane, shift in zip(drawn, shifts, strict=True):
            plane[:] = np.roll(plane, tuple(shift), axis=(0, 1))
        noise = self.generator.normal(0, 0.02, drawn.shape).astype(np.float32)
        strength = self.generator.random((len(drawn), 1, 1, 1), dtype=np.float32)
        pixels = torch.from_numpy((drawn + strength * noise).clip(0, 1))
        return pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(codes)


def save(reader: SceneReader, path: Path) -> None:
    """Write the weights in half precision."""
    save_file({k: v.half().contiguous() for k, v in reader.state_dict().items()}, path)


if __name__ == "__main__":
    for kind, file in FILES.items():
        save(fit(kind), file)
