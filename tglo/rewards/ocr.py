"""How well an image shows the text that its prompt quotes, as read by RapidOCR, whose package has its models."""

from __future__ import annotations

import math
import re
import unicodedata
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tglo.data.images import as_rgb

SMALLEST = 32  # pixels of a side
LONGEST = 8  # times the shorter side
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」')


class Ocr:
    """1 less the edit distance of the quoted and the read text, over the longer one's length: in [0, 1].

    Both without blanks, case and typographic forms. What is read besides the quoted text counts against
    an image. RapidOCR runs on the CPU; its version is part of the identity. Raises ImportError without it.
    """

    def __init__(self) -> None:
        from rapidocr import RapidOCR

        self.identity = f"ocr rapidocr {version('rapidocr')}"
        self._engine: Any = RapidOCR(params={"Global.log_level": "error"})

    def __call__(self, images: list[Image.Image], prompts: list[str]) -> NDArray[np.float64]:
        """Return scores (B,). ValueError for a prompt without text in double quotes: no number is right."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts; give one each")
        wanted = [quoted(prompt) for prompt in prompts]
        lacking = [prompt for prompt, text in zip(prompts, wanted, strict=True) if not text]
        if lacking:
            raise ValueError(
                f"ocr: {len(lacking)} of {len(prompts)} prompts have no text in double quotes, such as "
                f"{lacking[0][:100]!r}; score only the rows that ask for text"
            )
        pairs = zip(images, wanted, strict=True)
        scores = [similarity(text, plain(self.read(image))) for image, text in pairs]
        return np.array(scores, dtype=np.float64)

    def read(self, image: Image.Image) -> str:
        """Return the text of an image, line by line from the top; "" where there is none."""
        pixels = np.asarray(_padded(as_rgb(image)))[..., ::-1]  # as OpenCV: BGR
        return " ".join(self._engine(pixels.copy()).txts or ())


def _padded(image: Image.Image) -> Image.Image:
    """Put white around an image that is small or long: RapidOCR scales its shorter side up without a bound."""
    least = max(SMALLEST, math.ceil(max(image.size) / LONGEST))
    size = max(image.width, least), max(image.height, least)
    if size == image.size:
        return image
    canvas = Image.new("RGB", size, "white")
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def quoted(prompt: str) -> str:
    """Return the texts in double quotes, as they are compared: joined, see `plain`."""
    return plain("".join("".join(match.groups("")) for match in _QUOTED.finditer(prompt)))


def plain(text: str) -> str:
    """Return a text without blanks, case and typographic forms."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def similarity(first: str, second: str) -> float:
    """Return 1 - (Levenshtein distance) / (length of the longer); 1 for two empty texts."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        above, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (letter != other))
    return 1 - row[-1] / max(len(first), len(second), 1)
