"""Images from a model folder and a file of prompts, and the manifest that lists them."""

from __future__ import annotations

from pathlib import Path

from tglo import models
from tglo.data.manifest import Row, sample_id, write_manifest
from tglo.devices import DTYPES, choose_device
from tglo.files import publish, temporary_name

MANIFEST = "manifest.csv"


def generate_images(
    model: str,
    prompts: Path,
    output: Path,
    *,
    count: int = 1,
    lora: Path | None = None,
    steps: int = 30,
    guidance: float = 5.0,
    size: tuple[int | None, int | None] = (None, None),
    batch_size: int = 4,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "fp32",
) -> Path:
    """Sample ``count`` images for each line of ``prompts``; returns the manifest's path.

    Image i of the list (all prompts, ``count`` times over) is made from seed + i and written to
    images/i.png; images that are already there are kept, so an interrupted call goes on. Raises
    ValueError for an empty file of prompts, and what :func:`tglo.models.load` raises.
    """
    lines = [line.strip() for line in prompts.read_text().splitlines() if line.strip()]
    if not lines or count < 1:
        raise ValueError(
            f"{prompts} has {len(lines)} prompts and count is {count}; at least one of each is needed"
        )
    names = [f"images/{number:06d}.png" for number in range(len(lines) * count)]
    texts = lines * count
    (output / "images").mkdir(parents=True, exist_ok=True)
    missing = [number for number, name in enumerate(names) if not (output / name).exists()]
    if missing:
        family = models.load(model, dtype=DTYPES[dtype], device=choose_device(device))
        if lora is not None:
            family.load_lora(lora)
        chunk = 8 * batch_size
        for start in range(0, len(missing), chunk):
            numbers = missing[start : start + chunk]
            images = family.generate(
                [texts[number] for number in numbers],
                [seed + number for number in numbers],
                steps=steps,
                guidance=guidance,
                height=size[0],
                width=size[1],
                batch_size=batch_size,
                progress=True,
            )
            for number, image in zip(numbers, images, strict=True):
                path = output / names[number]
                temporary = temporary_name(path)
                image.save(temporary, format="PNG")
                publish(temporary, path)
    rows = [
        Row(sample_id(text, name), text, name, None, number)
        for number, (text, name) in enumerate(zip(texts, names, strict=True), start=2)
    ]
    write_manifest(output / MANIFEST, rows)
    return output / MANIFEST
