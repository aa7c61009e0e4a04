"""Fits the reader inside the demo's score: python -m examples.pretraining.reader

It writes tglo/demo/reader.safetensors; about 30 s on two CPU cores.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from tglo.demo import digits
from tglo.demo.classifier import ILLEGIBLE, READER, Reader, shifted


def fit_reader(steps: int = 1200, seed: int = 0) -> Reader:
    """Fit the reader on one half of the real digits, drawn with pens of 1 to 6 pixels."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    data = digits.load(0, 2)
    reader = Reader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        ink, labels = _lesson(data, generator, legible=96, illegible=32)
        loss = cross_entropy(reader(torch.from_numpy(ink).unsqueeze(1)), torch.from_numpy(labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


def _lesson(
    data: digits.Digits, generator: np.random.Generator, *, legible: int, illegible: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a batch for the reader. A third each of the illegible are blots, two digits at once, and
    exchanged halves.
    """
    rows = generator.integers(len(data), size=legible + illegible)
    pens = generator.uniform(1.0, 6.0, size=len(rows))
    kind = np.arange(len(rows)) - legible  # negative: legible
    blot = (kind >= 0) & (kind % 3 == 0)
    pens[blot] = generator.uniform(8.5, 13.0, size=blot.sum())
    ink = shifted(data.draw(rows, pens), generator, reach=2)
    labels = data.labels[rows]
    for index in np.flatnonzero((kind >= 0) & ~blot):
        if kind[index] % 3 == 1:
            others = np.flatnonzero(labels[:legible] != labels[index])
            ink[index] = np.maximum(ink[index], ink[generator.choice(others)])
        else:
            move = np.array([(0, 1), (1, 0), (1, 1)])[generator.integers(3)] * digits.SIZE // 2
            ink[index] = np.roll(ink[index], tuple(move), axis=(0, 1))
    labels = np.where(kind >= 0, ILLEGIBLE, labels)
    return ink, labels


if __name__ == "__main__":
    weights = fit_reader().state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, READER)
